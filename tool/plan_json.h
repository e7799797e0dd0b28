#pragma once
// A row of the plan, for a program.

#include <nlohmann/json.hpp>

#include "fulgurite/plan/plan.h"

namespace fulgurite::tool {

nlohmann::ordered_json json_of(const plan::Row& row);

}  // namespace fulgurite::tool
