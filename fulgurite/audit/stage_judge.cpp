#include "fulgurite/audit/stage_judge.h"

#include <algorithm>
#include <cmath>

namespace fulgurite::audit {
namespace {

using execute::TapPoint;

// Tokens that references compute for the noise. They are slow: plain loops with sums in double.
constexpr int64_t kReferenceTokens = 16;

// Half a step of each type, relative to the smallest value that has it: what one rounding can change.
constexpr double kFp32 = 0x1p-24, kBf16 = 0x1p-8, kFp16 = 0x1p-11, kE4m3 = 0x1p-4, kE2m1 = 0x1p-2;

double half_step(DType type) {
  return type == DType::kBF16 ? kBf16 : type == DType::kF16 ? kFp16 : type == DType::kF64 ? 0.0 : kFp32;
}
double half_step(Activation activation) {
  return activation == Activation::kFp32 ? kFp32 : activation == Activation::kBf16 ? kBf16 : kFp16;
}
double half_step(LatentCache cache) {
  return cache == LatentCache::kFp32 ? kFp32 : cache == LatentCache::kBf16 ? kBf16 : kE4m3;
}

// Half a step of how these numerics store a tensor.
double storage_step(TapPoint point, const Numerics& n, bool v4) {
  const double activation = half_step(n.activation);
  switch (point) {
    case TapPoint::kIndexWeights:
    case TapPoint::kIndexScores:
    case TapPoint::kExpertWeights:
    case TapPoint::kLogits:
      return kFp32;
    case TapPoint::kKvLatent:
      return std::max(activation, half_step(n.latent_cache));
    case TapPoint::kKRope:
      return std::max(activation, n.latent_cache == LatentCache::kFp32 ? 0.0 : kBf16);
    case TapPoint::kKv:
    case TapPoint::kEntries:
      return std::max({activation, half_step(n.latent_cache), n.kv_quant == KvQuant::kE4m3 ? kE4m3 : 0.0});
    case TapPoint::kIndexK:
      if (!v4 || n.index_quant == IndexQuant::kNone) return activation;
      return n.index_quant == IndexQuant::kFp8 ? kE4m3 : kE2m1;
    default:
      return activation;
  }
}

// Half a step of what is rounded to 16 bits on the way to it; 0: nothing is.
double inner_step(TapPoint point, const Numerics& n) {
  double step = n.activation == Activation::kFp32 ? 0.0 : half_step(n.activation);
  const bool attends =
      point == TapPoint::kAttnHeads || point == TapPoint::kAttnOut || point == TapPoint::kHidden;
  if (attends && (n.softmax_p == SoftmaxP::kBf16 || n.qk_operands == QkOperands::kBf16)) step = kBf16;
  if (point == TapPoint::kIndexWeights && n.gate == fulgurite::Gate::kBf16) step = kBf16;
  if (point == TapPoint::kIndexScores && n.index_quant != IndexQuant::kNone) step = kBf16;
  return step;
}

// What a row may differ by where one code of an fp8 linear's operand that no dump holds (the experts' hidden values,
// DeepSeek-V4's grouped outputs) is a neighbour's, a step of 2^-3: an element among some hundred, which one rounding
// before it turned. Chosen, not derived: correct dumps of DeepSeek-V4 showed up to 5.6e-3. 0: there is none.
double code_on_the_way(TapPoint point, const Numerics& n, bool v4) {
  const bool passes = point == TapPoint::kHidden || (v4 && point == TapPoint::kAttnOut);
  return passes && n.activation_quant == ActivationQuant::kE4m3 ? kE4m3 / 8 : 0.0;
}

// What a tensor stored so may differ by, where the last bits of its sums do: in fp32 a few units; of 16 bits one
// element in fifty a step, of codes one in some thousand.
StageGate storage_gate(double half_step) {
  if (half_step <= kFp32) return {16 * kFp32, 64 * kFp32, half_step, false};
  if (half_step <= kBf16) return {half_step / 16, half_step / 2, half_step, false};
  return {half_step / 128, half_step / 16, half_step, false};
}

// Another legitimate value of the last bit of every root.
Numerics other_root(Numerics numerics) {
  if (numerics.rsqrt == Rsqrt::kCorrect)
    numerics.rsqrt = Rsqrt::kTwoStep;
  else if (numerics.rsqrt == Rsqrt::kTwoStep)
    numerics.rsqrt = Rsqrt::kCorrect;
  return numerics;
}

// The tensor's rows of this token and later ones.
RowRange rows_from(const DumpTensor& tensor, int64_t token) {
  return {std::max<int64_t>(0, token / tensor.every - tensor.first_row), INT64_MAX};
}

RowRange both(const RowRange& a, const RowRange& b) {
  const int64_t first = std::max(a.first, b.first);
  return {first, std::max(first, std::min(a.last, b.last))};
}

StageGate farther(const StageGate& a, const StageGate& b) {
  return {std::max(a.all, b.all), std::max(a.row, b.row), std::max(a.step, b.step),
          a.from_noise || b.from_noise};
}

// How far a tensor is from itself with two of its largest elements one step off: few elements have no share of
// one in some thousand.
double two_steps(const DumpTensor& tensor, double half_step) {
  double largest = 0.0, squares = 0.0;
  for (const float value : tensor.f32) {
    largest = std::max(largest, std::abs(static_cast<double>(value)));
    squares += static_cast<double>(value) * value;
  }
  return squares == 0.0 ? 0.0 : std::sqrt(2.0) * 2.0 * half_step * largest / std::sqrt(squares);
}

// From what was measured and what the storage allows; a coarser dump adds its own rounding to every element.
StageGate gate_from(const StageGate& noise, double step, double inner, double code,
                    const DumpTensor* tensor) {
  StageGate least = storage_gate(step);
  if (tensor != nullptr && step > kFp32) least.all = std::max(least.all, two_steps(*tensor, step));
  // One element on the way that rounds the other way, in a few rows.
  least.all = std::max(least.all, inner / 64);
  least.row = std::max({least.row, inner / 4, code});
  if (tensor != nullptr)
    least.all = std::max(least.all, code * std::sqrt(2.0 / static_cast<double>(tensor->rows)));
  StageGate gate{std::max(kGateFactor * noise.all, least.all), std::max(kGateFactor * noise.row, least.row),
                 step, kGateFactor * noise.all > least.all};
  if (tensor != nullptr && half_step(tensor->stored) > step) {
    gate.all += half_step(tensor->stored);
    gate.row += half_step(tensor->stored);
  }
  return gate;
}

}  // namespace

StageJudge::StageJudge(const model::Model& model, const Device& device, const plan::Options& options,
                       const Dump& dump)
    : model_(model), device_(device), options_(replay_options(options, dump.positions())), dump_(dump) {
  const plan::Plan plan = plan_for(options_.numerics);
  ReplayOptions how;
  how.find_undecided = true;
  base_ = replay(model_, plan, dump_, how);
  ReplayOptions references;
  references.last_by_reference = std::min(kReferenceTokens, dump_.positions());
  add_noise(replay(model_, plan, dump_, references).computed,
            dump_.positions() - references.last_by_reference);
  ReplayOptions units;
  units.units_off = true;
  add_noise(replay(model_, plan_for(other_root(options_.numerics)), dump_, units).computed, 0);
}

plan::Plan StageJudge::plan_for(const Numerics& numerics) const {
  plan::Options options = options_;
  options.numerics = numerics;
  return plan::make(model_, device_, options);
}

int64_t StageJudge::tokens_a_column(const StageKey& key) const {
  if (key.second != TapPoint::kIndexScores) return 0;
  return std::max<int64_t>(1, model_.config.ratio(key.first));
}

void StageJudge::add_noise(const Computed& other, int64_t first_token) {
  for (const auto& [key, rows] : other) {
    const DumpTensor* tensor =
        dump_.find(key.second, key.first == model_.config.layers ? model::kNoLayer : key.first);
    const ComputedRows& base = base_.computed.at(key);
    DumpTensor scores;  // of a dump that has none
    if (tensor == nullptr) {
      scores = *dump_.find(TapPoint::kTopk, key.first);
      scores.row_shape = {std::ssize(base.f32) / scores.rows};
      tensor = &scores;
    }
    if (base.f32.empty()) continue;
    const StageGate distance =
        distance_between(rows, base, *tensor, tokens_a_column(key), rows_from(*tensor, first_token));
    noise_[key.second] = farther(noise_[key.second], distance);
  }
}

StageGate StageJudge::gate_of(const StageKey& key) const {
  const auto noise = noise_.find(key.second);
  const auto tensor = dump_.tensors().find(key);
  return gate_from(noise == noise_.end() ? StageGate() : noise->second,
                   storage_step(key.second, options_.numerics, model_.config.window.has_value()),
                   inner_step(key.second, options_.numerics),
                   code_on_the_way(key.second, options_.numerics, model_.config.window.has_value()),
                   tensor == dump_.tensors().end() ? nullptr : &tensor->second);
}

std::vector<bool> StageJudge::excused(const StageKey& key) const {
  const auto undecided = base_.undecided.find(key.first);
  if (key.second != TapPoint::kExpertIds || undecided == base_.undecided.end()) return {};
  const DumpTensor& tensor = dump_.tensors().at(key);
  return {undecided->second.begin() + tensor.first_row, undecided->second.end()};
}

StageDistance StageJudge::distance(const StageKey& key, const Computed& computed, const StageGate& gate,
                                   const Numerics& numerics, RowRange rows) const {
  const DumpTensor& theirs = dump_.tensors().at(key);
  if (key.second == TapPoint::kTopk) {
    const model::Config& config = model_.config;
    const int64_t tokens_a_row = std::max<int64_t>(1, config.ratio(key.first));
    SelectionRule rule{nullptr, dump_.positions() / tokens_a_row, config.index_topk, tokens_a_row,
                       numerics.ties};
    const DumpTensor* const scores = dump_.find(TapPoint::kIndexScores, key.first);
    if (scores != nullptr && scores->rows >= theirs.rows) {
      rule.scores = scores->row(scores->rows - theirs.rows);
      rule.slack = half_step(scores->stored) <= kFp32 ? 0.0 : 2.0 * half_step(scores->stored);
      return selection_distance(rule, theirs, rows);
    }
    if (const auto ours = computed.find({key.first, TapPoint::kIndexScores}); ours != computed.end()) {
      rule.scores = ours->second.f32.data();
      rule.slack = gate_of({key.first, TapPoint::kIndexScores}).row;
      if (scores == nullptr) return selection_distance(rule, theirs, rows);
    }
  }
  const ComputedRows& ours = computed.at(key);
  if (theirs.indices()) return sets_distance(ours, theirs, excused(key), rows);
  return values_distance(ours, theirs, gate, tokens_a_column(key), rows);
}

StageResult StageJudge::judge(const StageKey& key) const {
  const DumpTensor& tensor = dump_.tensors().at(key);
  const StageGate gate = tensor.indices() ? StageGate() : gate_of(key);
  return {key,
          tensor.name,
          tensor.first_row,
          tensor.every > 1,
          distance(key, base_.computed, gate, options_.numerics, {}),
          gate};
}

std::vector<StageResult> StageJudge::judge() const {
  std::vector<StageResult> all;
  for (const auto& [key, tensor] : dump_.tensors()) all.push_back(judge(key));
  return all;
}

ReplayOptions StageJudge::part(const StageKey& key, RowRange rows) const {
  ReplayOptions how;
  how.until = key;
  how.sums = &base_.sums;
  const DumpTensor& tensor = dump_.tensors().at(key);
  const bool rest_in_dump = tensor.every == 1 && tensor.rows == dump_.positions();
  if (rest_in_dump) how.first_token = rows.first, how.last_token = rows.last;
  return how;
}

StageJudge::Trial StageJudge::try_numerics(const Numerics& numerics, const StageKey& key,
                                           RowRange rows) const {
  Trial trial;
  trial.computed = replay(model_, plan_for(numerics), dump_, part(key, rows)).computed;
  trial.distance = distance(key, trial.computed, gate_of(key), numerics, rows);
  return trial;
}

StageGate StageJudge::trial_gate(const Numerics& numerics, const StageKey& key, const Trial& trial,
                                 RowRange rows) const {
  const DumpTensor& tensor = dump_.tensors().at(key);
  if (tensor.indices()) return {};
  StageGate noise;
  ReplayOptions references = part(key, rows);
  references.last_by_reference = std::min(kReferenceTokens, dump_.positions());
  ReplayOptions units = part(key, rows);
  units.units_off = true;
  const auto add = [&](const Computed& other, const RowRange& of) {
    noise = farther(
        noise, distance_between(other.at(key), trial.computed.at(key), tensor, tokens_a_column(key), of));
  };
  const RowRange changed = both({rows.first, std::min(rows.last, tensor.rows)},
                                rows_from(tensor, dump_.positions() - references.last_by_reference));
  if (changed.first < changed.last)
    add(replay(model_, plan_for(numerics), dump_, references).computed, changed);
  add(replay(model_, plan_for(other_root(numerics)), dump_, units).computed, rows);
  const StageGate own =
      gate_from(noise, storage_step(key.second, numerics, model_.config.window.has_value()),
                inner_step(key.second, numerics),
                code_on_the_way(key.second, numerics, model_.config.window.has_value()), &tensor);
  StageGate gate = farther(own, gate_of(key));
  gate.step = own.step;
  return gate;
}

}  // namespace fulgurite::audit
