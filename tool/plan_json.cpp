#include "tool/plan_json.h"

namespace fulgurite::tool {

nlohmann::ordered_json json_of(const plan::Row& row) {
  nlohmann::ordered_json json{{"layer", nullptr},
                              {"operation", row.operation},
                              {"implementation", row.implementation},
                              {"kernel", row.has_kernel},
                              {"format", row.format},
                              {"scales", row.scales},
                              {"sums", row.sums},
                              {"first_token", row.first_token},
                              {"last_token", nullptr},
                              {"workspace_bytes", row.workspace_bytes},
                              {"refused", row.refused}};
  if (row.layer != model::kNoLayer) json["layer"] = row.layer;
  if (row.last_token != INT64_MAX) json["last_token"] = row.last_token;
  return json;
}

}  // namespace fulgurite::tool
