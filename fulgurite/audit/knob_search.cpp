#include "fulgurite/audit/knob_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "fulgurite/audit/what_if.h"
#include "fulgurite/core/error.h"

namespace fulgurite::audit {
namespace {

// Rows of a stage that trials look at, where there are more: those with the most that are beyond.
constexpr int64_t kTrialRows = 64;
// A choice that leaves more than this share of the distance explains nothing, whatever its gate.
constexpr double kPromising = 0.7;
constexpr size_t kTriedOnTheWhole = 4;

RowRange rows_of_trials(const StageResult& bad) {
  const StageDistance& d = bad.distance;
  if (d.rows <= kTrialRows) return {};
  const int64_t center = d.worst_row >= 0 ? d.worst_row : d.rows - 1;
  const int64_t first = std::clamp<int64_t>(center - kTrialRows / 2, 0, d.rows - kTrialRows);
  return {first, first + kTrialRows};
}

// With what a choice needs beside it: rows without kv_quant cannot be stored in codes.
std::string applied(const std::string& knobs) {
  return knobs == "kv_quant=none" ? "kv_quant=none,latent_cache=bf16" : knobs;
}

class Search {
 public:
  Search(const StageJudge& judge, const StageResult& bad, BisectReport& report)
      : judge_(judge),
        bad_(bad),
        report_(report),
        rows_(bad.distance.indices ? RowRange() : rows_of_trials(bad)),
        base_(judge.try_numerics(judge.numerics(), bad.key, rows_)) {}

  void try_choice(const std::string& knobs) {
    const Numerics numerics = changed(judge_.numerics(), applied(knobs));
    try {
      const StageJudge::Trial trial = judge_.try_numerics(numerics, bad_.key, rows_);
      report_.tried += 1;
      note(knobs, numerics, trial);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kPlan) throw;
      report_.refused.push_back(fmt::format("{}: {}", knobs, error.what()));
    }
  }

  // The error of every root that comes nearest: to first order the stage is linear in it.
  void fit_root() {
    if (bad_.distance.indices || explained_by("rsqrt=")) return;
    constexpr double kProbe = 1e-3;
    const DumpTensor& theirs = judge_.tensor(bad_.key);
    const std::vector<float>& zero = base_.computed.at(bad_.key).f32;
    double error = 0.0;
    for (int step = 0; step < 2; ++step) {
      const auto at = rows_of(error);
      const auto there = rows_of(error + kProbe);
      if (at.empty() || there.empty() || zero.size() != at.size()) return;
      double along = 0.0, length = 0.0;
      const RowRange rows{rows_.first, std::min(rows_.last, theirs.rows)};
      for (int64_t i = rows.first * theirs.width(); i < rows.last * theirs.width(); ++i) {
        const auto k = static_cast<size_t>(i);
        const double direction = (static_cast<double>(there[k]) - at[k]) / kProbe;
        const double rest = static_cast<double>(theirs.f32[k]) - at[k];
        if (!std::isfinite(direction) || !std::isfinite(rest)) continue;
        along += direction * rest;
        length += direction * direction;
      }
      if (length == 0.0) return;
      error += along / length;
      if (!(std::abs(error) > 2e-7) || std::abs(error) > 0.4) return;
    }
    for (const int digits : {1, 2, 3}) {
      try_choice(fmt::format("rsqrt=error:{:.{}g}", error, digits));
      if (explained_by("rsqrt=")) return;
    }
  }

  std::vector<Explanation> found;

 private:
  bool explained_by(std::string_view knob) const {
    return std::ranges::any_of(found, [&](const Explanation& e) { return e.knobs.starts_with(knob); });
  }

  std::vector<float> rows_of(double error) const {
    const Numerics numerics =
        error == 0.0 ? judge_.numerics() : changed(judge_.numerics(), fmt::format("rsqrt=error:{:g}", error));
    return judge_.try_numerics(numerics, bad_.key, rows_).computed.at(bad_.key).f32;
  }

  // NaN and infinity are no shares: what is no number explains nothing.
  double share(const StageDistance& distance) const {
    if (distance.relative_l2 == base_.distance.relative_l2) return 1.0;
    return distance.relative_l2 / base_.distance.relative_l2;
  }

  void note(const std::string& knobs, const Numerics& numerics, const StageJudge::Trial& trial) {
    const double left = share(trial.distance);
    const double worst = trial.distance.worst_row_l2 / base_.distance.worst_row_l2;
    if (left < report_.nearest_share) {
      report_.nearest_share = left;
      report_.nearest = knobs;
    }
    if (!(left <= kPromising) && !(worst <= kPromising)) return;
    const StageGate gate = judge_.trial_gate(numerics, bad_.key, trial, rows_);
    const StageDistance distance = judge_.distance_under(bad_.key, trial.computed, gate, numerics, rows_);
    if (distance.within(gate))
      found.push_back({knobs, std::string(source_of(applied(knobs))), distance, gate, ""});
  }

  const StageJudge& judge_;
  const StageResult& bad_;
  BisectReport& report_;
  const RowRange rows_;
  const StageJudge::Trial base_;
};

// From the bad stage on, the first that the choice leaves beyond its gate.
std::string first_bad_with(const model::Model& model, const Device& device, plan::Options options,
                           const Dump& dump, const StageKey& from, const std::string& knobs) {
  options.numerics = changed(options.numerics, applied(knobs));
  for (const StageResult& stage : StageJudge(model, device, options, dump).judge())
    if (stage.key >= from && !stage.within()) return stage.name;
  return "";
}

// Does this knob or value say nothing of the model, or the same as another?
bool idle(std::string_view knob, std::string_view value, const Numerics& base, const model::Config& config) {
  if (value == "checkpoint" || value == "family") return true;  // one of the other values
  if (value == "error" || value == "cuda") return true;         // needs its size; refused
  if (!config.window && (knob == "kv_quant" || knob == "shared_clamp")) return true;
  // Rows of 16-bit values are the same in fp32.
  return knob == "latent_cache" && value == "fp32" && base.activation == Activation::kBf16;
}

}  // namespace

std::vector<std::string> single_choices(const Numerics& base, const model::Config& config) {
  std::vector<std::string> choices;
  std::vector<Numerics> seen{base};
  const auto add = [&](const std::string& knobs) {
    const Numerics numerics = changed(base, knobs);
    if (std::ranges::find(seen, numerics) != seen.end()) return;
    seen.push_back(numerics);
    choices.push_back(knobs);
  };
  for (const KnownChoice& choice : choices_for(config))
    if (choice.knobs.find(',') == choice.knobs.npos && !choice.knobs.empty()) add(std::string(choice.knobs));
  const Numerics n;
  for (const KnobNames& names : {names_of(n.activation),
                                 names_of(n.activation_quant),
                                 names_of(n.activation_scale),
                                 names_of(n.norm_input),
                                 names_of(n.rsqrt),
                                 names_of(n.mla),
                                 names_of(n.latent_cache),
                                 names_of(n.indexer_wk),
                                 names_of(n.gate),
                                 names_of(n.gate_weight),
                                 names_of(n.hadamard),
                                 names_of(n.index_quant),
                                 names_of(n.index_scale),
                                 names_of(n.indexer_rope),
                                 names_of(n.index_norm),
                                 names_of(n.kv_quant),
                                 names_of(n.shared_clamp),
                                 names_of(n.softmax_tile),
                                 names_of(n.softmax_merge),
                                 names_of(n.softmax_denominator),
                                 names_of(n.softmax_p),
                                 names_of(n.qk_operands),
                                 names_of(n.ties)})
    for (const std::string_view value : names.values)
      if (!idle(names.knob, value, base, config)) add(fmt::format("{}={}", names.knob, value));
  for (const char* const eps : {"1e-12", "1e-10", "1e-8", "1e-7", "1e-6", "1e-5", "1e-4", "1e-3", "1e-2"})
    add(fmt::format("index_norm_eps={}", eps));
  return choices;
}

void search_choices(const StageJudge& judge, const model::Model& model, const Device& device,
                    const plan::Options& options, const Dump& dump, const StageResult& bad,
                    BisectReport& report, const Progress& progress) {
  Search search(judge, bad, report);
  const std::vector<std::string> choices = single_choices(options.numerics, model.config);
  for (size_t i = 0; i < choices.size(); ++i) {
    search.try_choice(choices[i]);
    progress(0.6 * static_cast<double>(i) / static_cast<double>(choices.size()));
  }
  search.fit_root();
  if (search.found.empty() && options.numerics.mma == Mma::kExact)
    search.try_choice("mma=hopper");  // by references: slow
  std::ranges::stable_sort(search.found, {}, [](const Explanation& e) { return e.distance.relative_l2; });
  for (size_t i = 0; i < std::min(kTriedOnTheWhole, search.found.size()); ++i) {
    progress(0.6 + 0.1 * static_cast<double>(i));
    search.found[i].next_bad = first_bad_with(model, device, options, dump, bad.key, search.found[i].knobs);
  }
  for (size_t i = kTriedOnTheWhole; i < search.found.size(); ++i) search.found[i].next_bad = bad.name;
  std::ranges::stable_sort(search.found, {}, [](const Explanation& e) { return !e.explains_all(); });
  report.explanations = std::move(search.found);
  progress(1.0);
}

}  // namespace fulgurite::audit
