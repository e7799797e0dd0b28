#pragma once
// One attention layer of DeepSeek-V4 as a chain of operations through their contracts, run by the rows that a
// plan for this processor takes or by the references: what the public decode and projection checks run.

#include <functional>
#include <string>
#include <vector>

#include "fulgurite/plan/catalog.h"
#include "test/op_test.h"

namespace fulgurite::test::v4 {

// Flash's and Pro's; `heads` may be some of them alone.
struct Dimensions {
  const char* name;
  int64_t hidden, heads, q_lora, groups, index_topk;
};
inline constexpr int64_t kHeadDim = 512, kRope = 64, kWindow = 128, kStreams = 4, kOutputRank = 1024;
inline constexpr int64_t kIndexHeads = 64, kIndexDim = 128;
inline constexpr int64_t kContext = 8320;  // positions of the tables

enum class Side { kPlanned, kReference };

// A tensor that owns its bytes; a copy is another.
template <int Rank>
struct Field {
  DType dtype = DType::kF32;
  std::array<int64_t, Rank> extent{};
  std::vector<std::byte> bytes;

  Field() = default;
  Field(DType type, std::array<int64_t, Rank> shape)
      : dtype(type),
        extent(shape),
        bytes(static_cast<size_t>(View<std::byte, Rank>(nullptr, shape).size() * bits(type) / 8),
              std::byte{0x5A}) {}

  template <int As = Rank>
  Tensor<As> view(std::array<int64_t, As> shape) {
    Tensor<As> tensor = View<float, As>(reinterpret_cast<float*>(bytes.data()), shape);
    tensor.dtype = dtype;
    return tensor;
  }
  Tensor<Rank> view() { return view<Rank>(extent); }
  Tensor<2> flat() { return view<2>({extent[0], View<std::byte, Rank>(nullptr, extent).size() / extent[0]}); }
  View<float, Rank> floats() { return view().template as<float>(); }
  std::vector<float> values() const;
};

struct KvCache {
  KvRow row;
  int64_t sequences = 0, count = 0;
  std::vector<std::byte> bytes;
  KvRows rows() { return {row, {bytes.data(), {sequences, KvRow::blocks(count), row.block_bytes()}}}; }
};

// A weight that owns its bytes.
struct Matrix {
  std::vector<std::byte> codes;
  std::vector<e8m0> exponents;
  PreparedMatrix view;
};

// Of which check the inputs are: decode_attention of a ratio, or qkv_proj_rope, which begins after the norm.
enum class Check { kLayer, kProjections };

// All that the layer's operations read and write, in the order in which they do.
struct Values {
  Field<3> streams;
  Field<2> post, collapsed, normed, q_latent, q_latent_normed;
  Field<3> mix, q_raw, q;
  Field<2> kv_raw;
  KvCache window, entries;
  Field<4> state, index_state;
  Field<3> index_keys, index_q, index_operand, attended, grouped;
  Field<2> index_gate, index_weights, selected, block, next_post, next_collapsed;
  Field<3> next_mix, x_out;
};

struct Stage {
  std::string name;
  std::function<void(Side, Values&)> run;
  std::function<std::vector<float>(const Values&)> result;
};

// What a layer is made of; a weight that no stage of the layer reads is not made.
struct Weights {
  Matrix q_a, q_b, kv, o_a, o_b, index_q, index_gate, wkv, wgate, index_wkv, index_wgate;
  std::vector<float> fn, base, scale, attn_norm, q_norm, kv_norm, entry_norm, key_norm, ape, key_ape, sink;
};

class Layer {
 public:
  // ratio 0: the window alone; 4; 128.
  Layer(const Dimensions& dimensions, const Weights& weights, int64_t ratio, std::vector<TokenPlace> places,
        Check check = Check::kLayer);

  Values inputs(uint64_t seed) const;  // streams and caches; everything else is unwritten
  std::vector<Stage> stages();

 private:
  void draw_table();
  void add_mixing(std::vector<Stage>& stages);
  void add_projections(std::vector<Stage>& stages);
  void add_entries(std::vector<Stage>& stages);
  void add_indexer(std::vector<Stage>& stages);
  void add_attention(std::vector<Stage>& stages);
  void compress(Side side, Values& v, bool keys) const;
  void update(Side side, Values& v, bool after_block) const;
  int64_t tokens() const { return static_cast<int64_t>(places_.size()); }
  int64_t entries() const { return ratio_ == 0 ? 0 : kContext / ratio_; }
  int64_t topk() const { return ratio_ == 4 ? std::min(d_.index_topk, entries()) : 0; }
  int64_t ring() const { return kWindow + tokens(); }
  View<const TokenPlace, 1> places() const { return {places_.data(), {tokens()}}; }
  rotary::Table table() const;

  Dimensions d_;
  const Weights& w_;
  int64_t ratio_;
  std::vector<TokenPlace> places_;
  Check check_;
  int64_t sequences_ = 0;
  Setting setting_;
  std::vector<float> cosine_, sine_;
};

// What the public checks draw for a layer of this ratio.
Weights make_weights(const Dimensions& dimensions, int64_t ratio, uint64_t seed, Check check = Check::kLayer);

// serving, as the planner resolves it for DeepSeek-V4.
Setting serving();

// Every row of the catalog's list that the plan would take, or the reference; checked, then run.
template <class Problem, class Args>
void run_row(Side side, plan::Rows<Implementation<Problem, Args>> rows, const Problem& problem,
             const Args& args) {
  check(problem, args);
  for (const auto* const row : rows) {
    const bool reference = std::string(row->name) == "reference";
    if ((side == Side::kReference) != reference || row->supports(problem)) continue;
    return test::run(*row, problem, args, 2);
  }
  FAIL() << "no row";
}

// y = x W^T. The reference does halves of the weight's rows on two threads.
void project(Side side, const Tensor<2>& x, const Matrix& weight, const Tensor<2>& y);

}  // namespace fulgurite::test::v4
