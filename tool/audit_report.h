#pragma once
// What `fulgurite audit` says on the terminal: a page for a person.

#include <string>
#include <vector>

#include "fulgurite/audit/audit.h"
#include "fulgurite/audit/what_if.h"

namespace fulgurite::tool {

std::string audit_page(const audit::AuditReport& report);
std::string what_if_page(const audit::Effect& noise, const std::vector<audit::WhatIf>& results);

}  // namespace fulgurite::tool
