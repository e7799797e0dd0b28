#include "fulgurite/plan/device_weights.h"

#include "fulgurite/core/requantized.h"

namespace fulgurite::plan {
namespace {

constexpr int64_t kAlignment = 256;

template <class T, int Rank>
bool is_contiguous(const View<const T, Rank>& view) {
  return view.stride == View<const T, Rank>(view.data, view.extent).stride;
}

// Calls put(view) for every view of the weights, always in the same order.
template <class Put>
struct Visitor {
  const Put& put;

  template <class T, int Rank>
  void operator()(View<const T, Rank>& view) const {
    if (view.size() > 0) put(view);
  }
  void operator()(BlockScaled& m) const {
    (*this)(m.data);
    (*this)(m.scale);
    (*this)(m.exponents);
  }
  void operator()(Mxfp4& m) const {
    (*this)(m.data);
    (*this)(m.scale);
  }
  void operator()(Nvfp4& m) const {
    (*this)(m.data);
    (*this)(m.scale);
    (*this)(m.global);
  }
  void operator()(PreparedMatrix& matrix) const {
    FULGURITE_ASSERT(matrix.packed == nullptr, "packed scales [{}, {}] have no kernel", matrix.out,
                     matrix.in);
    std::visit(*this, matrix.as);
  }
  void operator()(experts::Mlp& mlp) const { all(mlp.gate, mlp.up, mlp.down); }
  void operator()(PreparedCompressor& c) const { all(c.kv, c.gate, c.ape, c.norm); }
  void operator()(PreparedStreams& s) const { all(s.fn, s.base, s.scale); }
  void operator()(rotary::Table& table) const { all(table.cosine, table.sine); }
  void operator()(PreparedWindowAttention& w) const {
    all(w.kv, w.kv_norm, w.sink, w.o_a, w.o_b, w.compressor, w.index_keys);
  }
  void operator()(PreparedLayer& w) const {
    all(w.attention_norm, w.qkv_a, w.q_a, w.q_a_norm, w.q_b, w.kv_a, w.kv_a_norm, w.kv_b, w.o);
    all(w.index_q, w.index_k, w.index_k_norm_weight, w.index_k_norm_bias, w.index_gate);
    all(w.window, w.attention_streams, w.feed_forward_streams, w.feed_forward_norm);
    all(w.router, w.router_bias, w.expert_table);
    for (experts::Mlp& expert : w.experts) (*this)(expert);
    (*this)(w.shared);
  }
  void operator()(PreparedWeights& w) const {
    (*this)(w.embedding);
    for (PreparedLayer& layer : w.layers) (*this)(layer);
    all(w.head_streams, w.final_norm, w.head, w.rope, w.compressed_rope);
  }

  template <class... Parts>
  void all(Parts&... parts) const {
    ((*this)(parts), ...);
  }
};

template <class Put>
void for_each_view(PreparedWeights& weights, const Put& put) {
  Visitor<Put>{put}(weights);
}

// All but the memory that the views are of.
PreparedWeights views_of(const PreparedWeights& w) {
  return {{}, w.embedding, w.layers, w.head_streams, w.final_norm, w.head, w.rope, w.compressed_rope};
}

template <class View>
int64_t bytes_of(const View& view) {
  return (view.size() * static_cast<int64_t>(sizeof(*view.data)) + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

int64_t device_bytes(const PreparedWeights& host) {
  PreparedWeights views = views_of(host);
  int64_t bytes = 0;
  for_each_view(views, [&](const auto& view) { bytes += bytes_of(view); });
  return bytes;
}

void upload_again(const PreparedWeights& host, void* stream, DeviceWeights& to) {
  to.weights = views_of(host);
  int64_t used = 0;
  for_each_view(to.weights, [&](auto& view) {
    FULGURITE_ASSERT(is_contiguous(view) && used + bytes_of(view) <= to.memory.size(),
                     "weights take {} bytes, there are {}", used + bytes_of(view), to.memory.size());
    std::byte* const at = to.memory.data() + used;
    to.memory.memory().write(at, view.data, view.size() * static_cast<int64_t>(sizeof(*view.data)), stream);
    view.data = reinterpret_cast<decltype(view.data)>(at);
    used += bytes_of(view);
  });
}

DeviceWeights upload(const PreparedWeights& host, const Memory& memory, void* stream) {
  DeviceWeights device{Buffer(memory, device_bytes(host)), {}};
  upload_again(host, stream, device);
  return device;
}

}  // namespace fulgurite::plan
