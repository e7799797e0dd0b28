#pragma once
// The tensors of an operation's Args that have a row a token: cut to some of the tokens, copied, or listed. What
// holds for rows of tokens alone (in what part of a call a token stands changes nothing) is an operation's
// contract; the compressor's tokens read what those before them left, so its calls are never cut.

#include <cstring>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

#include "fulgurite/audit/tensors.h"
#include "fulgurite/plan/catalog.h"

namespace fulgurite::audit {

template <class Visit>
void for_each_token_tensor(embedding::Args& a, const Visit& visit) {
  visit("ids", a.ids), visit("out", a.out);
}
template <class Visit>
void for_each_token_tensor(norm::Args& a, const Visit& visit) {
  visit("x", a.x), visit("added", a.added), visit("replaced", a.replaced);
  visit("sum", a.sum), visit("out", a.out);
}
template <class Visit>
void for_each_token_tensor(linear::Args& a, const Visit& visit) {
  visit("x", a.x), visit("y", a.y);
}
template <class Visit>
void for_each_token_tensor(rotary::Args& a, const Visit& visit) {
  visit("x", a.x), visit("places", a.places);
}
template <class Visit>
void for_each_token_tensor(latent_prepare::Args& a, const Visit& visit) {
  visit("kv", a.kv), visit("places", a.places);
}
template <class Visit>
void for_each_token_tensor(indexer_projection::Args& a, const Visit& visit) {
  visit("x", a.x), visit("k", a.k), visit("gate", a.gate);
}
template <class Visit>
void for_each_token_tensor(indexer_prepare::Args& a, const Visit& visit) {
  visit("q", a.q), visit("k", a.k), visit("gate", a.gate), visit("places", a.places);
  visit("weights", a.weights), visit("q_operand", a.q_operand);
  visit("rotated_q", a.rotated_q), visit("rotated_k", a.rotated_k);
}
template <class Visit>
void for_each_token_tensor(index_select::Args& a, const Visit& visit) {
  visit("q", a.q), visit("weights", a.weights), visit("places", a.places);
  visit("selected", a.selected), visit("scores", a.scores), visit("slots", a.slots);
}
template <class Visit>
void for_each_token_tensor(head_projection::Args& a, const Visit& visit) {
  visit("x", a.x), visit("y", a.y);
}
template <class Visit>
void for_each_token_tensor(sparse_attention::Args& a, const Visit& visit) {
  visit("q", a.q), visit("q_rope", a.q_rope), visit("selected", a.selected), visit("slots", a.slots);
  visit("places", a.places), visit("out", a.out);
}
template <class Visit>
void for_each_token_tensor(expanded_attention::Args& a, const Visit& visit) {
  visit("q", a.q), visit("selected", a.selected), visit("places", a.places), visit("out", a.out);
}
template <class Visit>
void for_each_token_tensor(router::Args& a, const Visit& visit) {
  visit("x", a.x), visit("ids", a.ids);
  visit("expert_ids", a.expert_ids), visit("expert_weights", a.expert_weights);
}
template <class Visit>
void for_each_token_tensor(experts::Args& a, const Visit& visit) {
  visit("x", a.x), visit("expert_ids", a.expert_ids), visit("expert_weights", a.expert_weights);
  visit("out", a.out);
}
template <class Visit>
void for_each_token_tensor(hyper_connection::Args& a, const Visit& visit) {
  visit("streams", a.streams), visit("block", a.block), visit("post", a.post), visit("mix", a.mix);
  visit("replaced", a.replaced), visit("streams_out", a.streams_out), visit("post_out", a.post_out);
  visit("mix_out", a.mix_out), visit("collapsed", a.collapsed);
}
template <class Visit>
void for_each_token_tensor(query_prepare::Args& a, const Visit& visit) {
  visit("q", a.q), visit("places", a.places), visit("normed", a.normed);
}
template <class Visit>
void for_each_token_tensor(kv_prepare::Args& a, const Visit& visit) {
  visit("kv", a.kv), visit("places", a.places);
}
template <class Visit>
void for_each_token_tensor(compressor::Args& a, const Visit& visit) {
  visit("x", a.x), visit("places", a.places), visit("projected", a.projected), visit("pooled", a.pooled);
}
template <class Visit>
void for_each_token_tensor(compressed_attention::Args& a, const Visit& visit) {
  visit("q", a.q), visit("selected", a.selected), visit("places", a.places), visit("out", a.out);
}
template <class Visit>
void for_each_token_tensor(largest_logits::Args& a, const Visit& visit) {
  visit("logits", a.logits), visit("temperatures", a.temperatures);
  visit("ids", a.ids), visit("values", a.values), visit("totals", a.totals), visit("numbers", a.numbers);
}

// Args of tokens [first, first + count); the same memory.
template <class Args>
Args tokens_of(Args args, int64_t first, int64_t count) {
  for_each_token_tensor(args, [&](std::string_view, auto& tensor) {
    if (tensor) tensor = tensor.slice(0, first, count);
  });
  return args;
}

// An output, or what is both input and output, as [tokens, ., .].
struct OutputTensor {
  std::string_view name;
  Tensor<3> view;
};

namespace detail {

template <int Rank>
Tensor<3> as_rank_3(const Tensor<Rank>& tensor) {
  static_assert(Rank >= 1 && Rank <= 3);
  Tensor<3> cube;
  cube.data = tensor.data;
  cube.dtype = tensor.dtype;
  cube.extent = {tensor.extent[0], Rank == 3 ? tensor.extent[1] : 1, Rank > 1 ? tensor.extent[Rank - 1] : 1};
  cube.stride = {tensor.stride[0], Rank == 3 ? tensor.stride[1] : 0, Rank > 1 ? tensor.stride[Rank - 1] : 0};
  return cube;
}

// What is only read is no output.
template <class T>
void list(std::vector<OutputTensor>&, std::string_view, const T&) {}
template <int Rank>
void list(std::vector<OutputTensor>& outputs, std::string_view name, const Tensor<Rank>& tensor) {
  outputs.push_back({name, as_rank_3(tensor)});
}
template <int Rank>
void list(std::vector<OutputTensor>& outputs, std::string_view name, const View<float, Rank>& view) {
  outputs.push_back({name, as_rank_3(Tensor<Rank>(view))});
}
template <int Rank>
void list(std::vector<OutputTensor>& outputs, std::string_view name, const View<int32_t, Rank>& view) {
  outputs.push_back({name, as_rank_3(Tensor<Rank>(view))});
}

template <class T, int Rank>
int64_t element_bytes(const View<T, Rank>&) {
  return sizeof(T);
}
template <class Byte, int Rank>
int64_t element_bytes(const AnyView<Byte, Rank>& tensor) {
  return tensor.element_bytes();
}

}  // namespace detail

template <class Args>
std::vector<OutputTensor> outputs_of(Args args) {
  std::vector<OutputTensor> outputs;
  for_each_token_tensor(args, [&](std::string_view name, auto& tensor) {
    if (tensor) detail::list(outputs, name, tensor);
  });
  return outputs;
}

// Args whose token tensors are copies, of these tokens alone: what runs on them leaves the others' as they are
// (but for the rows of caches that it writes).
template <class Args>
class TokenCopy {
 public:
  TokenCopy(const Args& args, std::span<const int64_t> tokens) : args_(args) {
    for_each_token_tensor(args_, [&](std::string_view, auto& tensor) {
      if (tensor) copy(tensor, tokens);
    });
  }
  const Args& args() const { return args_; }

 private:
  template <class AView>
  void copy(AView& tensor, std::span<const int64_t> tokens) {
    const int64_t size = detail::element_bytes(tensor);
    AView to = tensor;
    to.extent[0] = static_cast<int64_t>(tokens.size());
    int64_t row = 1;  // elements
    for (size_t i = to.extent.size(); i-- > 0; row *= to.extent[i]) to.stride[i] = row;
    TensorBytes& bytes = bytes_.emplace_back(row * size);
    std::byte* at = bytes.data();
    const auto* const from = reinterpret_cast<const std::byte*>(tensor.data);
    for (const int64_t token : tokens) copy_row<1>(tensor, from + token * tensor.stride[0] * size, size, at);
    to.data = reinterpret_cast<decltype(to.data)>(bytes.data());
    tensor = to;
  }
  template <size_t Dimension, class AView>
  static void copy_row(const AView& tensor, const std::byte* from, int64_t size, std::byte*& at) {
    constexpr size_t kRank = std::tuple_size_v<decltype(tensor.extent)>;
    if constexpr (Dimension == kRank) {
      std::memcpy(at, from, static_cast<size_t>(size));
      at += size;
    } else {
      for (int64_t i = 0; i < tensor.extent[Dimension]; ++i)
        copy_row<Dimension + 1>(tensor, from + i * tensor.stride[Dimension] * size, size, at);
    }
  }

  Args args_;
  std::vector<TensorBytes> bytes_;
};

inline std::vector<int64_t> all_tokens(int64_t count) {
  std::vector<int64_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), int64_t{0});
  return tokens;
}

}  // namespace fulgurite::audit
