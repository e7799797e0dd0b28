#include "fulgurite/audit/replay.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/audit/by_reference.h"
#include "fulgurite/core/element.h"
#include "fulgurite/ops/rotary/rotary_table.h"

namespace fulgurite::audit {
namespace {

using execute::TapPoint;
using execute::TapTensor;

// Among -1, 0 and 1, by what looks like chance.
int64_t some_unit(size_t i) {
  uint64_t x = (i + 1) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 31)) * 0xBF58476D1CE4E5B9u;
  return static_cast<int64_t>((x >> 40) % 3) - 1;
}

// A unit of fp32, or half a step of what the dump stores the value in, where that is less.
float unit_of(DType stored) {
  return stored == DType::kBF16 ? 0x1p-9f : stored == DType::kF16 ? 0x1p-12f : 0x1p-23f;
}

float unit_off(float value, size_t i, DType stored) {
  return value + value * (unit_of(stored) * static_cast<float>(some_unit(i)));
}

// As another order of earlier sums may leave it: a few units of fp32, of 16 bits a step in one of ten.
float rounded_otherwise(float value, DType type, size_t i) {
  if (type == DType::kF32) return value + value * (0x1p-20f * static_cast<float>(some_unit(i)));
  if (some_unit(i) != 0 || some_unit(i + 77) == 0) return value;
  return value + value * (type == DType::kBF16 ? 0x1p-8f : 0x1p-11f) * static_cast<float>(some_unit(i + 77));
}

// The value nearest to `sum` that is stored as `stored`; `stored` itself where it is no value of the type.
float nearest_sum(float sum, float stored, DType type) {
  if (type == DType::kF32 || round_to(type, stored) != stored || !std::isfinite(sum)) return stored;
  if (round_to(type, sum) == stored) return sum;
  // The neighbour on the side of the sum, and the last value before the middle.
  const float step = std::max(std::abs(stored) * 0x1p-11f, 0x1p-126f);
  const float away =
      sum > stored ? std::numeric_limits<float>::infinity() : -std::numeric_limits<float>::infinity();
  float inside = stored, outside = stored;
  for (float probe = step; round_to(type, outside) == stored; probe *= 2.0f)
    outside = sum > stored ? stored + probe : stored - probe;
  while (std::nextafter(inside, away) != outside && inside != outside) {
    const float middle = inside + (outside - inside) * 0.5f;
    if (middle == inside || middle == outside) break;
    (round_to(type, middle) == stored ? inside : outside) = middle;
  }
  return inside;
}

// A layer's tables with frequencies that differ in proportion: each about a unit in the last place off.
struct OtherTables {
  explicit OtherTables(const plan::Plan& plan)
      : plain(plan.frequencies, plan.options.context),
        compressed(plan.compressed_frequencies, plan.options.context) {}
  struct One {
    One(rotary::Frequencies frequencies, int64_t positions)
        : cosine(DType::kF32, {positions, frequencies.dim / 2}),
          sine(DType::kF32, {positions, frequencies.dim / 2}) {
      frequencies.base *= 1.0 + 0x1p-19;
      const View<float, 2> c = cosine.view().as<float>(), s = sine.view().as<float>();
      rotary::fill_table(frequencies, c, s);
      table = {c, s};
    }
    OwnedTensor<2> cosine, sine;  // where the rows read them
    rotary::Table table;
  };
  One plain, compressed;
};

template <class Args>
constexpr bool kHeavyWithoutCache =
    std::is_same_v<Args, index_select::Args> || std::is_same_v<Args, head_projection::Args> ||
    std::is_same_v<Args, sparse_attention::Args> || std::is_same_v<Args, expanded_attention::Args> ||
    std::is_same_v<Args, compressed_attention::Args> || std::is_same_v<Args, experts::Args>;

// Summed as the contract defines it, where a row states another order.
template <class Problem>
Problem summed_as_defined(Problem problem) {
  problem.setting.numerics.mma = Mma::kExact;
  if constexpr (requires { problem.order; }) problem.order = {};
  if constexpr (requires { problem.head_order; }) problem.head_order = {};
  return problem;
}

class Replay : public execute::Tap, public plan::Conductor {
 public:
  Replay(const Dump& dump, const plan::Plan& plan, const ReplayOptions& options)
      : dump_(dump), plan_(plan), options_(options) {
    if (options_.units_off) tables_.emplace(plan);
    if (options_.until) find_start(*options_.until);
  }

  ReplayResult result;

  void begin(std::span<const TokenPlace> places) override {
    FULGURITE_ASSERT(std::ssize(places) == dump_.positions(), "{} tokens, {} positions", places.size(),
                     dump_.positions());
  }

  void run(const plan::AnyCall& call) override {
    std::visit(
        [this](const auto* typed) {
          if (needed(plan_.rows[static_cast<size_t>(typed->row)])) carry_out(*typed);
        },
        call);
  }

  void at(TapPoint point, int64_t layer, const TapTensor& tensor) override {
    if (point == TapPoint::kHidden && !plan_.config.streams) return;  // before_sum has it unrounded
    const DumpTensor* theirs = dump_.find(point, layer);
    // Scores say how narrowly a selection was made, whether or not the dump has any.
    const DumpTensor* const sets = dump_.find(TapPoint::kTopk, layer);
    if (theirs == nullptr && point == TapPoint::kIndexScores) theirs = sets;
    if (theirs == nullptr || !records(dump_.key(point, layer))) return;
    ComputedRows& to = result.computed[dump_.key(point, layer)];
    const int64_t columns =
        point == TapPoint::kIndexScores ? dump_.positions() / tensor.column_tokens : tensor.view.extent[2];
    for (int64_t r = 0; r < theirs->rows; ++r) {
      const Tensor<2> row = tensor.view[token_of(*theirs, r)];
      for (int64_t a = 0; a < row.extent[0]; ++a)
        for (int64_t b = 0; b < row.extent[1]; ++b) {
          if (b >= columns) break;
          if (tensor.view.dtype == DType::kI32)
            to.i32.push_back(row.as<int32_t>()(a, b));
          else
            to.f32.push_back(load(row, a, b));
        }
    }
  }

  bool replace(TapPoint point, int64_t layer, const TapTensor& tensor) override {
    if (!runs(layer) && !(feed_forward_of(layer) && point == TapPoint::kAttnOut)) return false;
    if (point == TapPoint::kTopk) return replace_selection(layer, tensor);
    const DumpTensor* const theirs = dump_.find(point, layer);
    if (theirs == nullptr || point == TapPoint::kQNormed || point == TapPoint::kIndexScores ||
        point == TapPoint::kHidden || point == TapPoint::kLogits)
      return false;
    for (int64_t r = 0; r < theirs->rows; ++r) {
      const Tensor<2> row = tensor.view[token_of(*theirs, r)];
      if (theirs->indices())
        replace_experts(*theirs, r, row);
      else
        replace_values(*theirs, r, row);
    }
    return true;
  }

  void before_sum(int64_t layer, const Tensor<2>& stream, const Tensor<2>& block) override {
    const DumpTensor* const theirs = dump_.find(TapPoint::kHidden, layer);
    if (theirs == nullptr) return;
    std::vector<float>& sums = result.sums[layer];
    if (options_.sums != nullptr && !computes_sum(layer)) {
      sums = options_.sums->at(layer);
      return;
    }
    const bool record = records(dump_.key(TapPoint::kHidden, layer));
    ComputedRows& to = result.computed[dump_.key(TapPoint::kHidden, layer)];
    for (int64_t r = 0; r < theirs->rows; ++r)
      for (int64_t i = 0; i < theirs->width(); ++i) {
        const int64_t t = token_of(*theirs, r);
        const float sum = load(stream, t, i) + load(block, t, i);
        if (record) to.f32.push_back(round_to(stream.dtype, sum));
        sums.push_back(nearest_sum(sum, theirs->row(r)[i], stream.dtype));
      }
    // Many sums stand in the middle between two stored values, where a unit would choose the other one.
    for (size_t i = 0; options_.units_off && i < sums.size(); ++i)
      if (const float other = unit_off(sums[i], i, theirs->stored);
          stream.dtype == DType::kF32 || round_to(stream.dtype, other) == round_to(stream.dtype, sums[i]))
        sums[i] = other;
  }

  bool compares_hidden() const override { return true; }

  Replacement replaced_hidden(int64_t layer) override {
    const DumpTensor* const theirs = dump_.find(TapPoint::kHidden, layer);
    if (theirs == nullptr) return {};
    const float* const values = plan_.config.streams ? theirs->f32.data() : result.sums.at(layer).data();
    const View<const float, 2> rows(values, {theirs->rows, theirs->width()});
    if (TensorMemory::current() == nullptr) return {theirs->first_row, rows};
    replacement_.emplace(copy_of(ConstTensor<2>(rows)));  // where a GPU reads it; the one before has been met
    return {theirs->first_row, View<const float, 2>(replacement_->view().as<float>())};
  }

 private:
  static int64_t token_of(const DumpTensor& tensor, int64_t r) {
    return tensor.every == 1 ? tensor.first_row + r : (r + 1) * tensor.every - 1;
  }

  // ---- which calls a single stage needs

  // The first layer that runs: the stage's own, where all that it reads of those before it is in the dump.
  void find_start(const StageKey& until) {
    const int64_t layers = plan_.config.layers;
    start_ = std::min(until.first, layers - 1);
    if (until.second == TapPoint::kLogits) start_ = layers;
    while (start_ > 0 && !dump_.whole(TapPoint::kHidden, start_ - 1)) --start_;
    // A layer without an indexer needs the selection of the one before it.
    if (start_ < layers && !plan_.config.window)
      while (start_ > 0 && !plan_.config.has_indexer(start_) && !selects(start_)) --start_;
    while (start_ > 0 && !dump_.whole(TapPoint::kHidden, start_ - 1)) --start_;
    // Rounded storage hides the sum that the first norm reads: the layer before makes it again.
    const bool hidden_sum =
        plan_.config.streams == std::nullopt && plan_.options.numerics.activation != Activation::kFp32;
    remakes_sum_ = start_ > 0 && hidden_sum && dump_.whole(TapPoint::kAttnOut, start_ - 1) &&
                   (start_ == 1 || dump_.whole(TapPoint::kHidden, start_ - 2));
  }

  // Does the dump say, of all positions, what this layer selects?
  bool selects(int64_t layer) const {
    for (; layer >= 0; --layer) {
      if (dump_.whole(TapPoint::kTopk, layer)) return true;
      if (plan_.config.has_indexer(layer)) return false;
    }
    return false;
  }

  bool feed_forward_of(int64_t layer) const { return options_.until && remakes_sum_ && layer == start_ - 1; }
  bool runs(int64_t layer) const { return !done_ && (!options_.until || layer >= start_); }
  bool computes_sum(int64_t layer) const { return layer >= start_ || feed_forward_of(layer); }

  bool records(const StageKey& key) {
    if (done_) return false;
    if (options_.until && options_.until->second == TapPoint::kTopk &&
        key == StageKey(options_.until->first, TapPoint::kIndexScores))
      return true;
    if (options_.until && *options_.until != key) return false;
    done_ = options_.until.has_value();
    return true;
  }

  bool needed(const plan::Row& row) const {
    if (!options_.until) return true;
    if (done_) return false;
    const bool final = row.layer == model::kNoLayer;
    if (final) return row.operation == "embedding" ? start_ - (remakes_sum_ ? 1 : 0) <= 0 : true;
    if (row.layer >= start_) return true;
    if (!feed_forward_of(row.layer)) return false;
    return row.operation == "norm attention" || row.operation == "norm feed_forward" ||
           row.operation == "router" || row.operation == "experts";
  }

  // ---- carrying calls out

  template <class Problem, class Args>
  void carry_out(const plan::StepCall<Problem, Args>& call) {
    Args args = call.args;
    const int64_t layer = plan_.rows[static_cast<size_t>(call.row)].layer;
    if constexpr (requires { args.table = rotary::Table(); })
      if (tables_)
        args.table = plan_.config.ratio(layer) == 0 ? tables_->plain.table : tables_->compressed.table;
    if constexpr (std::is_same_v<Args, router::Args>)
      if (options_.find_undecided) find_undecided(call, layer);
    const bool by_reference = call.implementation.name == std::string_view("reference");
    if (by_reference) {
      int64_t first = 0, last = call.tokens;
      if (kHeavyWithoutCache<Args> && options_.until && layer >= start_)
        first = std::min(options_.first_token, last), last = std::min(options_.last_token, last);
      if (last - first == call.tokens)
        return run_in_parts(call.implementation, call.problem, args, call.tokens, call.lane);
      return run_in_parts(call.implementation, call.problem, tokens_of(args, first, last - first),
                          last - first, call.lane);
    }
    const auto& reference = row_named<Implementation<Problem, Args>>("reference");
    const Problem defined = summed_as_defined(call.problem);
    int64_t split = std::max<int64_t>(0, call.tokens - options_.last_by_reference);
    if (split == call.tokens || reference.supports(defined))
      return call.implementation.run(call.problem, args, call.lane);
    if (split > 0) call.implementation.run(call.problem, tokens_of(args, 0, split), call.lane);
    run_in_parts(reference, defined, tokens_of(args, split, call.tokens - split), call.tokens - split,
                 call.lane);
  }

  // Runs the router on inputs that are rounded otherwise here and there, and notes whose experts change.
  template <class Problem>
  void find_undecided(const plan::StepCall<Problem, router::Args>& call, int64_t layer) {
    std::vector<bool>& undecided = result.undecided[layer];
    undecided.assign(static_cast<size_t>(call.tokens), false);
    std::vector<int32_t> first;
    for (size_t draw = 0; draw < 5; ++draw) {
      const TokenCopy<router::Args> copy(call.args, all_tokens(call.tokens));
      Tensor<2> x;
      x.data = const_cast<std::byte*>(copy.args().x.data), x.dtype = copy.args().x.dtype;
      x.extent = copy.args().x.extent, x.stride = copy.args().x.stride;
      for (int64_t t = 0; t < x.extent[0]; ++t)
        for (int64_t i = 0; draw > 0 && i < x.extent[1]; ++i)
          store(x,
                rounded_otherwise(load(x, t, i), x.dtype,
                                  draw * 1000003u + static_cast<size_t>(t * x.extent[1] + i)),
                t, i);
      call.implementation.run(call.problem, copy.args(), call.lane);
      const View<int32_t, 2> ids = copy.args().expert_ids;
      if (draw == 0) first.assign(ids.data, ids.data + ids.extent[0] * ids.extent[1]);
      for (int64_t t = 0; t < ids.extent[0]; ++t)
        if (!std::equal(ids[t].data, ids[t].data + ids.extent[1], first.begin() + t * ids.extent[1]))
          undecided[static_cast<size_t>(t)] = true;
    }
  }

  // ---- putting the dump's values in their place

  void replace_values(const DumpTensor& theirs, int64_t r, const Tensor<2>& row) const {
    const auto width = static_cast<size_t>(theirs.width());
    // Storage of 16 bits holds what a dump of 16 bits says.
    const DType unit = row.dtype == DType::kF32 ? theirs.stored : DType::kF32;
    for (int64_t a = 0; a < row.extent[0]; ++a)
      for (int64_t b = 0; b < row.extent[1]; ++b) {
        const size_t i = static_cast<size_t>(a * row.extent[1] + b);
        const float value = theirs.row(r)[i];
        store(row, options_.units_off ? unit_off(value, static_cast<size_t>(r) * width + i, unit) : value, a,
              b);
      }
  }

  // Ascending ids; a row of others stands for itself.
  void replace_experts(const DumpTensor& theirs, int64_t r, const Tensor<2>& row) const {
    const int32_t* const ids = theirs.index_row(r);
    const int64_t count = theirs.width();
    for (int64_t i = 0; i < count; ++i)
      if (ids[i] < 0 || ids[i] >= plan_.config.experts || (i > 0 && ids[i] <= ids[i - 1])) return;
    for (int64_t i = 0; i < count; ++i) row.as<int32_t>()(int64_t{0}, i) = ids[i];
  }

  bool replace_selection(int64_t layer, const TapTensor& tensor) const {
    // A layer that shares a selection has it from the dump of the one that made it, too.
    int64_t from = layer;
    while (from > 0 && !dump_.find(TapPoint::kTopk, from) && !plan_.config.window &&
           !plan_.config.has_indexer(from))
      --from;
    const DumpTensor* const sets = dump_.find(TapPoint::kTopk, from);
    const DumpTensor* const scores = dump_.find(TapPoint::kIndexScores, from);
    const DumpTensor* const theirs = sets != nullptr ? sets : scores;
    if (theirs == nullptr) return false;
    const int64_t tokens_a_row = std::max<int64_t>(1, plan_.config.ratio(layer));
    for (int64_t r = 0; r < theirs->rows; ++r) {
      const int64_t t = token_of(*theirs, r), visible = (t + 1) / tokens_a_row;
      const View<int32_t, 1> row = tensor.view[t][0].as<int32_t>();
      std::vector<int32_t> chosen;
      if (sets != nullptr)
        chosen = members(*sets, r, visible);
      else
        chosen =
            chosen_by({scores->row(r), static_cast<size_t>(visible)}, row.extent[0], plan_.numerics.ties);
      if (chosen.empty() != (visible == 0) || std::ssize(chosen) > row.extent[0]) continue;
      chosen.resize(static_cast<size_t>(row.extent[0]), -1);
      std::ranges::copy(chosen, row.data);
    }
    return true;
  }

  // Ascending; empty where a member is none that this token sees, or stands twice.
  static std::vector<int32_t> members(const DumpTensor& sets, int64_t r, int64_t visible) {
    std::vector<int32_t> all;
    for (int64_t i = 0; i < sets.width(); ++i)
      if (const int32_t id = sets.index_row(r)[i]; id != -1) all.push_back(id);
    std::ranges::sort(all);
    const bool wrong = !all.empty() && (all.front() < 0 || all.back() >= visible ||
                                        std::ranges::adjacent_find(all) != all.end());
    return wrong ? std::vector<int32_t>() : all;
  }

  const Dump& dump_;
  const plan::Plan& plan_;
  const ReplayOptions options_;
  std::optional<OtherTables> tables_;
  std::optional<OwnedTensor<2>> replacement_;
  int64_t start_ = 0;
  bool remakes_sum_ = false;
  bool done_ = false;
};

}  // namespace

plan::Options replay_options(plan::Options options, int64_t positions) {
  options.context = positions;
  options.chunk_tokens = positions;
  options.logits = plan::LogitRows::kAll;
  options.tracing = plan::Tracing::kOn;
  return options;
}

std::vector<int32_t> chosen_by(std::span<const float> scores, int64_t count, Ties ties) {
  std::vector<uint64_t> keys;
  for (size_t i = 0; i < scores.size(); ++i)
    keys.push_back(index_select::rank_key(scores[i], static_cast<int32_t>(i), ties));
  const auto most = static_cast<size_t>(std::min<int64_t>(count, std::ssize(keys)));
  std::ranges::nth_element(keys, keys.begin() + static_cast<int64_t>(most), std::greater());
  std::vector<int32_t> chosen;
  for (size_t i = 0; i < most; ++i) chosen.push_back(index_select::position_of(keys[i], ties));
  std::ranges::sort(chosen);
  return chosen;
}

ReplayResult replay(const model::Model& model, const plan::Plan& plan, const Dump& dump,
                    const ReplayOptions& options) {
  std::optional<TensorMemory> memory;  // what is put in the place of a tensor lies where the rows read it
  if (plan.device.accelerator != nullptr) memory.emplace(*plan.device.accelerator->shared);
  execute::Session session(model, plan);
  Replay pass(dump, session.plan(), options);
  session.forward(0, dump.ids(), &pass, &pass);
  return std::move(pass.result);
}

}  // namespace fulgurite::audit
