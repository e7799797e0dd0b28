// fulgurite compare: two files of named tensors; which one goes wrong first?

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>

#include "tool/model_options.h"
#include "tool/option_values.h"
#include "tool/table.h"
#include "tool/verbs.h"

namespace fulgurite::tool {
namespace {

struct Options {
  std::string a, b, prefix_a, prefix_b;
  double tolerance = 1e-5;
  bool json = false;
};

void print_json(const Options& options, const audit::Comparison& comparison) {
  nlohmann::ordered_json json{{"tolerance", options.tolerance},
                              {"first_beyond", nullptr},
                              {"tensors", nlohmann::json::array()},
                              {"only_a", comparison.only_a},
                              {"only_b", comparison.only_b}};
  if (const auto* const first = comparison.first_beyond(options.tolerance))
    json["first_beyond"] = first->name;
  for (const audit::TensorDifference& d : comparison.tensors) {
    nlohmann::ordered_json entry{{"name", d.name}, {"within", d.distance() <= options.tolerance}};
    if (!d.problem.empty()) entry["problem"] = d.problem;
    if (d.problem.empty() && d.indices)
      entry.update({{"rows", d.rows},
                    {"rows_that_differ", d.rows_that_differ},
                    {"smallest_overlap", d.smallest_overlap},
                    {"worst_row", d.worst_row}});
    if (d.problem.empty() && !d.indices)
      entry.update({{"relative_l2", d.relative_l2},
                    {"worst_row_relative_l2", d.worst_row_l2},
                    {"worst_row", d.worst_row},
                    {"max_abs", d.largest},
                    {"max_abs_at", d.largest_at},
                    {"nan_or_infinity_mismatches", d.mask_mismatches}});
    json["tensors"].push_back(std::move(entry));
  }
  fmt::print("{}\n", json.dump(2));
}

// The first few of many names.
std::string some_of(const std::vector<std::string>& names) {
  constexpr size_t kShown = 4;
  std::vector<std::string> shown;
  for (const std::string& name : names)
    if (shown.size() < kShown) shown.push_back(printable(name));
  return fmt::format("{} ({}{})", names.size(), fmt::join(shown, ", "), names.size() > kShown ? ", ..." : "");
}

void add_row(Table& table, const audit::TensorDifference& d, double tolerance) {
  const std::string verdict = d.distance() <= tolerance ? "" : "beyond";
  if (!d.problem.empty()) {
    table.add({printable(d.name), "", "", "", "", "", "", verdict + ": " + d.problem});
  } else if (d.indices) {
    const std::string sets = fmt::format("{} of {} sets differ, least overlap {:.4f}", d.rows_that_differ,
                                         d.rows, d.smallest_overlap);
    table.add({printable(d.name), "", "", fmt::format("{}", d.worst_row), "", "", "",
               sets + (verdict.empty() ? "" : ": " + verdict)});
  } else {
    table.add({printable(d.name), fmt::format("{:.2e}", d.relative_l2), fmt::format("{:.2e}", d.worst_row_l2),
               fmt::format("{}", d.worst_row), fmt::format("{:.2e}", d.largest),
               fmt::format("[{}]", fmt::join(d.largest_at, ", ")), fmt::format("{}", d.mask_mismatches),
               verdict});
  }
}

void print_text(const Options& options, const audit::Comparison& comparison) {
  Table table({{"tensor"},
               {"relative L2", Align::kRight},
               {"worst row", Align::kRight},
               {"row", Align::kRight},
               {"max abs", Align::kRight},
               {"at"},
               {"NaN/inf", Align::kRight},
               {""}});
  for (const audit::TensorDifference& d : comparison.tensors) add_row(table, d, options.tolerance);
  fmt::print("{}", table.text());
  if (!comparison.only_a.empty()) fmt::print("only in A: {}\n", some_of(comparison.only_a));
  if (!comparison.only_b.empty()) fmt::print("only in B: {}\n", some_of(comparison.only_b));
  if (const auto* const first = comparison.first_beyond(options.tolerance))
    fmt::print("first beyond {:g}: {}\n", options.tolerance, printable(first->name));
  else
    fmt::print("all {} tensors within {:g}\n", comparison.tensors.size(), options.tolerance);
}

int run_compare(const Options& options) {
  const audit::Comparison comparison =
      audit::compare_files(checkpoint::SafetensorsFile::open(options.a), options.prefix_a,
                           checkpoint::SafetensorsFile::open(options.b), options.prefix_b);
  if (comparison.tensors.empty())
    fail(ErrorKind::kRequest, "{} and {}: no tensor has the same name in both", printable(options.a),
         printable(options.b));
  if (options.json)
    print_json(options, comparison);
  else
    print_text(options, comparison);
  return comparison.first_beyond(options.tolerance) == nullptr ? 0 : 1;
}

}  // namespace

void add_compare(CLI::App& app, Run& run) {
  CLI::App& verb = *app.add_subcommand("compare",
                                       "Compare two files of tensors in the order of the computation; exit "
                                       "code 1 if one is beyond the tolerance");
  const auto options = std::make_shared<Options>();
  verb.add_option("A", options->a, "A safetensors file")->required();
  verb.add_option("B", options->b, "The one that is taken to be right")->required();
  verb.add_option("--prefix-a", options->prefix_a, "Compare the tensors of A with this prefix, without it");
  verb.add_option("--prefix-b", options->prefix_b, "The same of B");
  verb.add_option("--tolerance", options->tolerance,
                  "For the worst row: relative L2, or the share of a set of indices that differs")
      ->transform(number(0.0, 1e300))
      ->capture_default_str();
  verb.add_flag("--json", options->json, "Print the comparison as JSON");
  verb.footer(
      "NaN beside NaN, and an infinity beside the same infinity, are equal and left out of the distances: a "
      "tensor\nthat is all NaN in both files is within any tolerance. One on one side only is beyond any.");
  verb.callback([options, &run] { run = [options] { return run_compare(*options); }; });
}

}  // namespace fulgurite::tool
