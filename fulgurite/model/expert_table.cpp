#include "fulgurite/model/expert_table.h"

#include "fulgurite/core/error.h"

namespace fulgurite::model {
namespace {

// What is wrong with a row; empty: nothing.
std::string wrong_with(const StoredTable& table, int64_t row, int64_t experts) {
  for (int64_t i = 0; i < table.extent[1]; ++i) {
    const int64_t expert = table(row, i);
    if (expert < 0 || expert >= experts) return fmt::format("expert {} of {}", expert, experts);
    for (int64_t j = 0; j < i; ++j)
      if (table(row, j) == expert) return fmt::format("expert {} twice", expert);
  }
  return "";
}

}  // namespace

std::optional<Finding> examine_table(const std::string& name, const StoredTable& table, int64_t experts) {
  for (int64_t row = 0; row < table.extent[0]; ++row) {
    const std::string wrong = wrong_with(table, row, experts);
    if (!wrong.empty())
      return Finding{Rule::kExpertTable, name,
                     fmt::format("{}: expected {} different experts below {} for each token, token {} has {}",
                                 name, table.extent[1], experts, row, wrong)};
  }
  return std::nullopt;
}

void require_expert_tables(const Model& model) {
  for (const TensorName& name : model.names) {
    if (name.role != Role::kExpertTable) continue;
    const StoredTable& table = model.weights.layers[static_cast<size_t>(name.layer)].expert_table;
    if (const auto finding = examine_table(name.name, table, model.config.experts))
      throw Error(ErrorKind::kModel, finding->message);
  }
}

}  // namespace fulgurite::model
