#pragma once
// What `fulgurite bisect` prints.

#include <nlohmann/json.hpp>
#include <string>

#include "fulgurite/fulgurite.h"

namespace fulgurite::tool {

std::string bisect_page(const audit::Dump& dump, const audit::BisectReport& report);
nlohmann::ordered_json bisect_json(const std::string& model, const std::string& numerics, double seconds,
                                   const audit::Dump& dump, const audit::BisectReport& report);

}  // namespace fulgurite::tool
