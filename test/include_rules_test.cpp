// Who may include whom: the table of docs/map.md, held against every source of the tree.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "test/tiny_model.h"

namespace fulgurite {
namespace {

namespace fs = std::filesystem;

bool is_test(const std::string& file) {
  return file.ends_with("_test.cpp") || file.ends_with("_fuzz.cpp") ||
         file.find("/test_") != std::string::npos;
}

// The room of a path under fulgurite/: "core", "ops/linear", ...
std::string room_of(const std::string& file) {
  std::string rest = file.substr(std::string("fulgurite/").size());
  const size_t slash = rest.find('/');
  if (slash == std::string::npos) return "api";  // fulgurite.h
  std::string room = rest.substr(0, slash);
  if (room != "ops") return room;
  rest.erase(0, slash + 1);
  return "ops/" + rest.substr(0, rest.find('/'));
}

// Of an op: what holds an implementation against the reference (X_audit.h, X_audit.cpp).
bool is_audit(const std::string& file) {
  return file.starts_with("fulgurite/ops/") && file.find("_audit.") != std::string::npos;
}

// What such a file may use of the room audit: nothing that knows a model.
bool is_comparison(const std::string& file) {
  return file == "fulgurite/audit/compare.h" || file == "fulgurite/audit/report.h" ||
         file == "fulgurite/audit/tensors.h";
}

// Is it the contract of an op: ops/X/X.h, or a further header without an implementation's suffix?
bool is_contract(const std::string& file) {
  return file.starts_with("fulgurite/ops/") && file.ends_with(".h") && !file.ends_with("_cases.h") &&
         file.find("_cpu") == std::string::npos && file.find("_cuda") == std::string::npos && !is_audit(file);
}

bool may_include(const std::string& from, const std::string& to) {
  const std::string room = room_of(from), target = room_of(to);
  const auto one_of = [&](std::initializer_list<const char*> rooms) {
    return std::ranges::any_of(rooms, [&](const char* name) { return target == name; });
  };
  if (room == "api") return true;
  if (is_audit(to) && !is_audit(from) && room != "audit") return false;
  if (room == target) return true;
  if (room == "core") return false;
  if (room == "checkpoint" || room == "tokenizer" || room == "cpu" || room == "cuda") return one_of({"core"});
  if (room.starts_with("ops/")) {
    if (one_of({"core"}) || is_contract(to)) return true;
    if (is_audit(from)) return is_comparison(to) || is_audit(to);
    return (from.find("_cpu") != std::string::npos && target == "cpu") ||
           (from.find("_cuda") != std::string::npos && (target == "cuda" || to.ends_with("_cuda.h")));
  }
  if (room == "model") return one_of({"core", "checkpoint"});
  if (room == "plan") return one_of({"core", "model"}) || is_contract(to);
  if (room == "execute") return one_of({"core", "model", "plan"}) || is_contract(to);
  if (room == "audit")
    return one_of({"core", "checkpoint", "model", "plan", "execute"}) || is_contract(to) || is_audit(to);
  return false;
}

std::vector<std::string> includes_of(const fs::path& path) {
  static const std::regex kInclude("^\\s*#\\s*include\\s*[\"<]((fulgurite|tool|test)/[^\">]+)[\">]");
  std::vector<std::string> includes;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (std::smatch match; std::regex_search(line, match, kInclude)) includes.push_back(match[1]);
  return includes;
}

std::vector<std::string> sources() {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(test::kSource + "/fulgurite")) {
    const std::string extension = entry.path().extension();
    if (extension == ".h" || extension == ".cpp" || extension == ".cu")
      files.push_back(fs::relative(entry.path(), test::kSource));
  }
  return files;
}

TEST(include_rules, every_include_is_allowed_by_the_map) {
  ASSERT_GT(sources().size(), 100u);
  for (const std::string& file : sources()) {
    if (is_test(file)) continue;
    for (const std::string& include : includes_of(fs::path(test::kSource) / file)) {
      EXPECT_TRUE(include.starts_with("fulgurite/"))
          << file << " includes " << include << ": the library includes itself alone";
      EXPECT_TRUE(may_include(file, include)) << file << " must not include " << include;
    }
  }
}

TEST(include_rules, the_rule_rejects_what_it_must) {
  EXPECT_FALSE(may_include("fulgurite/core/view.h", "fulgurite/cpu/kernels.h"));
  EXPECT_FALSE(may_include("fulgurite/checkpoint/writer.cpp", "fulgurite/model/config.h"));
  EXPECT_FALSE(may_include("fulgurite/ops/linear/linear.h", "fulgurite/cpu/kernels.h"));
  EXPECT_FALSE(may_include("fulgurite/ops/linear/linear_reference.cpp", "fulgurite/cpu/kernels.h"));
  EXPECT_FALSE(may_include("fulgurite/ops/norm/norm_cpu.cpp", "fulgurite/ops/linear/linear_cases.h"));
  EXPECT_FALSE(may_include("fulgurite/execute/session.cpp", "fulgurite/tokenizer/tokenizer.h"));
  EXPECT_FALSE(may_include("fulgurite/plan/plan.h", "fulgurite/checkpoint/writer.h"));
  EXPECT_FALSE(may_include("fulgurite/ops/linear/linear_audit.cpp", "fulgurite/audit/trace.h"));
  EXPECT_FALSE(may_include("fulgurite/ops/linear/linear_cpu.cpp", "fulgurite/ops/linear/linear_audit.h"));
  EXPECT_TRUE(may_include("fulgurite/ops/experts/experts_audit.cpp", "fulgurite/ops/linear/linear_audit.h"));
  EXPECT_TRUE(may_include("fulgurite/ops/linear/linear_audit.cpp", "fulgurite/audit/report.h"));
  EXPECT_TRUE(may_include("fulgurite/ops/linear/linear_cpu.cpp", "fulgurite/cpu/kernels.h"));
  EXPECT_TRUE(may_include("fulgurite/ops/experts/experts.h", "fulgurite/ops/linear/linear.h"));
}

TEST(include_rules, an_op_has_contract_reference_implementation_cases_and_test_under_one_name) {
  for (const auto& entry : fs::directory_iterator(test::kSource + "/fulgurite/ops")) {
    const std::string op = entry.path().filename();
    for (const char* const part :
         {".h", "_reference.cpp", "_cpu.cpp", "_audit.h", "_audit.cpp", "_cases.h", "_test.cpp"})
      EXPECT_TRUE(fs::exists(entry.path() / (op + part))) << op << part;
  }
}

TEST(include_rules, the_library_reads_no_environment_and_never_prints) {
  static const std::regex kForbidden(
      "\\b(v?f?printf|fputs|puts|putchar|fwrite|perror|(secure_)?getenv|(quick_|_)?exit|abort)\\s*\\(|fmt::"
      "print|"
      "std::c(out|err|log)\\b");
  for (const std::string& file : sources()) {
    if (is_test(file) || file == "fulgurite/core/assert.cpp") continue;
    std::ifstream stream(fs::path(test::kSource) / file);
    for (std::string line; std::getline(stream, line);)
      EXPECT_FALSE(std::regex_search(line, kForbidden)) << file << ": " << line;
  }
}

}  // namespace
}  // namespace fulgurite
