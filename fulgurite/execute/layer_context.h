#pragma once
// What the flow of a layer needs at hand: its plan, its weights, its caches, the buffers of this pass.

#include "fulgurite/execute/activations.h"
#include "fulgurite/execute/tap.h"
#include "fulgurite/plan/prepare.h"

namespace fulgurite::execute {

// Those of one layer; what it does not have is without data.
struct LayerCaches {
  LatentRows latent;
  KvRows window;
  KvRows entries;
  IndexKeys index;
  View<float, 4> state;
  View<float, 4> index_state;
};

struct LayerContext {
  int64_t layer = 0;
  const plan::LayerPlan& plan;
  const plan::PreparedLayer& weights;
  rotary::Table rope;
  LayerCaches caches;
  const Activations& at;
  const plan::CountedLane& lane;
  Tap* tap = nullptr;

  // Was the tensor replaced?
  bool show(TapPoint point, const TapTensor& tensor) const {
    if (tap == nullptr) return false;
    tap->at(point, layer, tensor);
    return tap->replace(point, layer, tensor);
  }
  template <int Rank>
  bool show(TapPoint point, const Tensor<Rank>& tensor) const {
    return show(point, tap_tensor(tensor));
  }
  template <class T, int Rank>
  bool show(TapPoint point, const View<T, Rank>& view) const {
    return show(point, Tensor<Rank>(view));
  }
};

}  // namespace fulgurite::execute
