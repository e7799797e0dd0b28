#include "tool/audit_html.h"

#include <fmt/format.h>

#include "tool/audit_json.h"
#include "tool/page_parts.h"

namespace fulgurite::tool {
namespace {

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
  return text;
}

std::string escaped(std::string text) {
  return replaced(replaced(std::move(text), "&", "&amp;"), "<", "&lt;");
}

// JSON inside a script element: no string of it may end the element or begin a comment.
std::string inside_script(const nlohmann::ordered_json& json) {
  return replaced(json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace), "<", "\\u003c");
}

}  // namespace

std::string audit_html(nlohmann::ordered_json report, const std::string& page) {
  if (report.contains("whole")) report["whole"] = without_each_margin(std::move(report["whole"]));
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>Fulgurite audit: {}</title>\n<style>\n{}</style>\n<body>\n<main></main>\n"
      "<details>\n<summary>As on the terminal</summary>\n<pre>\n{}</pre>\n</details>\n"
      "<noscript>The tables and plots of this page are drawn by the scripts within it.</noscript>\n"
      "<script type=\"application/json\" id=\"report\">{}</script>\n"
      "<script>\n{}\n</script>\n<script>\n{}</script>\n</body>\n</html>\n",
      escaped(report["model"].get<std::string>()), kPageStyle, escaped(page), inside_script(report),
      kPlottingLibrary, kPageScript);
}

}  // namespace fulgurite::tool
