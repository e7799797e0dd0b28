#pragma once
// What an audit found, as a page for a browser: one file with its style, its plotting library and its numbers,
// which reads nothing else.

#include <nlohmann/json.hpp>
#include <string>

namespace fulgurite::tool {

// `report` is what --json writes, `page` what the terminal shows.
std::string audit_html(nlohmann::ordered_json report, const std::string& page);

}  // namespace fulgurite::tool
