#pragma once
// Files that the page of --html is made of, as the build found them (tool/CMakeLists.txt).

#include <string_view>

namespace fulgurite::tool {

extern const std::string_view kPageStyle;        // tool/report/page.css
extern const std::string_view kPageScript;       // tool/report/page.js
extern const std::string_view kPlottingLibrary;  // Chart.js

}  // namespace fulgurite::tool
