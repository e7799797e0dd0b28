#pragma once
// How one operation is planned: the first row of the catalog that takes its problem, every refusal kept. What the descriptions
// of the layers (planner.cpp, window_planner.cpp) choose with.

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "fulgurite/core/error.h"
#include "fulgurite/plan/plan.h"

namespace fulgurite::plan {

// "e4m3 128x128, scales f32 [256, 384]".
std::string shaped(const StoredMatrix& matrix);
// "layer 3 linear q_a", or the operation alone.
std::string place(int64_t layer, const std::string& operation);
// shaped(), and whether the linear reads the weight as bf16 though it is stored otherwise.
std::string reading_text(const StoredMatrix& weight, const linear::Problem& problem);

// A linear's name in the plan, and its weight.
struct NamedWeight {
  std::string name;
  const StoredMatrix& weight;
};

class Chooser {
 public:
  // Appends to plan.rows; reads the plan's device, numerics and options.
  explicit Chooser(Plan& plan) : plan_(plan) {}

  const Setting& setting() const { return setting_; }
  int64_t batch() const { return plan_.options.chunk_tokens; }
  int64_t sequences() const { return plan_.options.sequences; }
  int64_t context() const { return plan_.options.context; }

  // Throws Error{kPlan} with every reason where every row refuses.
  template <class Problem, class Args>
  Step<Problem, Args> choose(int64_t layer, const std::string& operation, const std::string& format,
                             Rows<Implementation<Problem, Args>> candidates, const Problem& problem) {
    Row row{layer, operation, "", format, 1, INT64_MAX, 0, std::exchange(refused_, {}), "", "", true};
    for (const Implementation<Problem, Args>* const candidate : candidates) {
      if (!is_candidate(operation, candidate->name, candidate->device)) continue;
      if (const Support refusal = refused(operation, *candidate, problem)) {
        row.refused.push_back(fmt::format("{}: {}", candidate->name, refusal->reason));
        continue;
      }
      const Problem solved = as_read(*candidate, problem);
      const auto& runs = runner(*candidate, candidates);
      row.implementation = runs.name;
      if (candidate->sums != nullptr) row.sums = candidate->sums(problem);
      row.has_kernel =
          runs.run != nullptr && (plan_.device.accelerator != nullptr || are_built(candidate->device));
      row.workspace_bytes = candidate->workspace_bytes(problem, plan_.device.threads);
      plan_.bytes.workspace = std::max(plan_.bytes.workspace, row.workspace_bytes);
      plan_.rows.push_back(row);
      return {solved, {{INT64_MAX, &runs, std::ssize(plan_.rows) - 1}}};
    }
    fail(ErrorKind::kPlan, "{}: no implementation takes it ({})", place(layer, operation),
         fmt::join(row.refused, "; "));
  }

  NormStep choose_norm(int64_t layer, const std::string& operation, int64_t width, float eps);
  LinearStep choose_linear(int64_t layer, const std::string& name, const StoredMatrix& weight,
                           linear::Output output = linear::Output::kActivation);

  // Both linears as one, "linear qkv_a", where Hopper's fp8 linear takes it. Otherwise nothing, and on a Hopper the next operation's
  // row, which must be q_a's, says why.
  std::optional<LinearStep> choose_joined(int64_t layer, const NamedWeight& q_a, const NamedWeight& kv);

 private:
  // The row that was chosen, or the reference of it.
  template <class Row>
  const Row& runner(const Row& chosen, Rows<Row> rows) const {
    if (plan_.options.candidates != Candidates::kReferencesOfRows) return chosen;
    return **std::ranges::find(rows, std::string_view("reference"), [](const Row* row) { return row->name; });
  }

  // Of a GPU's plan, where it is of references alone: the host runs them, in memory that both read.
  bool is_reference(std::string_view name) const {
    return plan_.options.candidates == Candidates::kReferencesOnly && name == "reference";
  }
  DeviceKind kind() const { return setting_.target.kind; }
  bool is_candidate(const std::string& operation, std::string_view name, DeviceKind device) const;
  // What the request, the row's own rule or this build refuses.
  template <class Problem, class Args>
  Support refused(const std::string& operation, const Implementation<Problem, Args>& row,
                  const Problem& problem) const {
    if (const Support refusal = refused_unasked(operation, row.name, row.device)) return refusal;
    if (const Support refusal = row.supports(problem)) return refusal;
    if (row.run == nullptr && plan_.device.accelerator != nullptr)
      return Refusal{"this build has no kernel of it"};
    return std::nullopt;
  }
  Support refused_joined(const NamedWeight& q_a, const NamedWeight& kv) const;
  Support refused_unasked(const std::string& operation, std::string_view name, DeviceKind device) const;

  // The problem as the row solves it, with the weight in the form that it reads.
  template <class Problem, class Args>
  static Problem as_read(const Implementation<Problem, Args>& row, Problem problem) {
    if constexpr (requires { problem.weight; })
      if (row.reads != nullptr) problem.weight = row.reads(problem);
    return row.states != nullptr ? row.states(problem) : problem;
  }

  Plan& plan_;
  const Setting setting_{plan_.device.target, plan_.numerics};
  std::vector<std::string> refused_;  // what was asked in the place of the next operation
};

}  // namespace fulgurite::plan
