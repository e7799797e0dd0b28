#pragma once
// What `fulgurite audit` says: a page for a person, all of it for a program.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fulgurite/audit/audit.h"
#include "fulgurite/audit/what_if.h"

namespace fulgurite::tool {

std::string audit_page(const audit::AuditReport& report);
nlohmann::ordered_json audit_json(const audit::AuditReport& report);

std::string what_if_page(const audit::Effect& noise, const std::vector<audit::WhatIf>& results);
nlohmann::ordered_json what_if_json(const audit::Effect& noise, const std::vector<audit::WhatIf>& results);

}  // namespace fulgurite::tool
