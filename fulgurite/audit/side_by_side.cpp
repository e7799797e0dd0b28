#include "fulgurite/audit/side_by_side.h"

#include <algorithm>
#include <map>

#include "fulgurite/core/element.h"

namespace fulgurite::audit {
namespace {

using execute::TapPoint;
using execute::TapTensor;

std::vector<float> floats_of(const Tensor<3>& tensor, int64_t t) {
  std::vector<float> row;
  for (int64_t a = 0; a < tensor.extent[1]; ++a)
    for (int64_t b = 0; b < tensor.extent[2]; ++b) row.push_back(load(tensor, t, a, b));
  return row;
}

std::span<const int32_t> indices_of(const Tensor<3>& tensor, int64_t t) {
  return {&tensor.as<int32_t>()(t, 0, 0), static_cast<size_t>(tensor.extent[2])};
}

// Keeps what is compared, of one pass.
class Recording : public execute::Tap {
 public:
  void begin(std::span<const TokenPlace>) override {
    floats_.clear();
    sets_.clear();
  }
  void at(TapPoint point, int64_t layer, const TapTensor& tensor) override {
    const int64_t tokens = tensor.view.extent[0];
    if (point == TapPoint::kAttnOut || point == TapPoint::kHidden)
      for (int64_t t = 0; t < tokens; ++t) floats_[{point, layer}].push_back(floats_of(tensor.view, t));
    if (point != TapPoint::kTopk) return;
    for (int64_t t = 0; t < tokens; ++t) {
      const std::span<const int32_t> row = indices_of(tensor.view, t);
      sets_[layer].emplace_back(row.begin(), row.end());
    }
  }

  const std::vector<float>& floats(TapPoint point, int64_t layer, int64_t t) const {
    return floats_.at({point, layer})[static_cast<size_t>(t)];
  }
  const std::vector<int32_t>& set(int64_t layer, int64_t t) const {
    return sets_.at(layer)[static_cast<size_t>(t)];
  }

 private:
  std::map<std::pair<TapPoint, int64_t>, std::vector<std::vector<float>>> floats_;
  std::map<int64_t, std::vector<std::vector<int32_t>>> sets_;
};

// Holds a pass of the base against the recorded one, as its tensors arise; and where attention runs, asks how
// much of it lies on what the other chose.
class Comparing : public execute::Tap, public plan::Conductor {
 public:
  Comparing(const plan::Plan& base, const Recording& other, plan::Conductor* inner)
      : base_(base), other_(other), inner_(inner) {
    for (int64_t layer = 0; layer < base.config.layers; ++layer)
      divergence.layers.push_back({layer, base.config.has_indexer(layer), {}, {}, {}});
  }

  void begin(std::span<const TokenPlace> places) override { places_ = places; }

  void at(TapPoint point, int64_t layer, const TapTensor& tensor) override {
    if (layer < 0) return;
    LayerDivergence& to = divergence.layers[static_cast<size_t>(layer)];
    if (point == TapPoint::kAttnOut) add_floats(point, layer, tensor.view, to.attention);
    if (point == TapPoint::kHidden) add_floats(point, layer, tensor.view, to.hidden);
    if (point == TapPoint::kIndexScores) add_scores(tensor, to.selection);
    if (point == TapPoint::kTopk && to.selects) add_sets(layer, tensor, to.selection);
  }

  void run(const plan::AnyCall& call) override {
    std::visit([this](const auto* typed) { look(*typed); }, call);
    if (inner_ != nullptr) return inner_->run(call);
    std::visit([](const auto* typed) { typed->run(); }, call);
  }

  Divergence divergence;

 private:
  void add_floats(TapPoint point, int64_t layer, const Tensor<3>& base, TensorStatistics& to) const {
    for (int64_t t = 0; t < base.extent[0]; ++t)
      to.add_row(places_[static_cast<size_t>(t)].position, other_.floats(point, layer, t), floats_of(base, t),
                 base.dtype);
  }

  int64_t visible(int64_t t) const { return (places_[static_cast<size_t>(t)].position + 1) / row_tokens_; }

  // Before the selection of the same layer.
  void add_scores(const TapTensor& tensor, SelectionStatistics& to) {
    row_tokens_ = tensor.column_tokens;
    for (int64_t t = 0; t < tensor.view.extent[0]; ++t) {
      const float* const row = &tensor.view.as<float>()(t, 0, 0);
      const int64_t count = std::min(visible(t), tensor.view.extent[2]);
      to.add_scores({row, static_cast<size_t>(count)}, base_.activations.selected_width);
    }
  }

  void add_sets(int64_t layer, const TapTensor& tensor, SelectionStatistics& to) const {
    for (int64_t t = 0; t < tensor.view.extent[0]; ++t)
      to.add_sets(places_[static_cast<size_t>(t)].position, visible(t), other_.set(layer, t),
                  indices_of(tensor.view, t));
  }

  // At a call that attends to selected rows.
  template <class Problem, class Args>
  void look(const plan::StepCall<Problem, Args>& call) {
    if constexpr (requires { attention_recall(call.problem, call.args, 0, {}); }) add_recall(call);
  }

  template <class Problem, class Args>
  void add_recall(const plan::StepCall<Problem, Args>& call) {
    const int64_t layer = base_.rows[static_cast<size_t>(call.row)].layer;
    LayerDivergence& to = divergence.layers[static_cast<size_t>(layer)];
    if (!to.selects) return;
    for (int64_t t = 0; t < call.tokens; ++t)
      if (visible(t) > base_.activations.selected_width)
        to.selection.add_recall(attention_recall(call.problem, call.args, t, other_.set(layer, t)));
  }

  const plan::Plan& base_;
  const Recording& other_;
  plan::Conductor* inner_;
  std::span<const TokenPlace> places_;
  int64_t row_tokens_ = 1;  // positions that a row of the selection stands for
};

void add(Mean& all, const Mean& more) {
  all.largest = all.count == 0 ? more.largest : std::max(all.largest, more.largest);
  all.count += more.count;
  all.sum += more.sum;
  all.squares += more.squares;
}

}  // namespace

Mean Divergence::changed_sets() const {
  Mean all;
  for (const LayerDivergence& layer : layers) add(all, layer.selection.changed);
  return all;
}

Mean Divergence::recall() const {
  Mean all;
  for (const LayerDivergence& layer : layers) add(all, layer.selection.recall);
  return all;
}

double Divergence::attention() const {
  double sum = 0.0;
  for (const LayerDivergence& layer : layers) sum += layer.attention.relative_l2();
  return layers.empty() ? 0.0 : sum / static_cast<double>(layers.size());
}

double Divergence::worst_hidden() const {
  double worst = 0.0;
  for (const LayerDivergence& layer : layers) worst = std::max(worst, layer.hidden.relative_l2());
  return worst;
}

Divergence compare_plans(const model::Model& model, const plan::Plan& other, const plan::Plan& base,
                         std::span<const int32_t> ids, plan::Conductor* conductor, const Progress& progress) {
  FULGURITE_ASSERT(base.options.tracing == plan::Tracing::kOn, "the base has no index scores to look at");
  execute::Session other_session(model, other), base_session(model, base);
  Recording recording;
  Comparing comparing(base, recording, conductor);
  const auto positions = static_cast<int64_t>(ids.size()) - 1;
  for (int64_t at = 0; at < positions; at += base.options.chunk_tokens) {
    const int64_t count = std::min(base.options.chunk_tokens, positions - at);
    const auto pass = ids.subspan(static_cast<size_t>(at), static_cast<size_t>(count));
    const View<const float, 2> q = other_session.forward(0, pass, &recording);
    const View<const float, 2> p = base_session.forward(0, pass, &comparing, &comparing);
    for (int64_t t = 0; t < count; ++t)
      comparing.divergence.likelihood.add(q[t], p[t], ids[static_cast<size_t>(at + t + 1)]);
    if (progress) progress(static_cast<double>(at + count) / static_cast<double>(positions));
  }
  return std::move(comparing.divergence);
}

}  // namespace fulgurite::audit
