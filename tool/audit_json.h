#pragma once
// All that an audit found, for a program: what --json writes and the page of --html shows.

#include <nlohmann/json.hpp>
#include <vector>

#include "fulgurite/audit/audit.h"
#include "fulgurite/audit/what_if.h"

namespace fulgurite::tool {

nlohmann::ordered_json audit_json(const audit::AuditReport& report);
nlohmann::ordered_json what_if_json(const audit::Effect& noise, const std::vector<audit::WhatIf>& results);

// A divergence of it with histograms alone: one number a query and layer is most of the file.
nlohmann::ordered_json without_each_margin(nlohmann::ordered_json divergence);

}  // namespace fulgurite::tool
