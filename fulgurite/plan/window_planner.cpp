#include "fulgurite/plan/window_planner.h"

#include "fulgurite/plan/prepare.h"

namespace fulgurite::plan {
namespace {

class WindowPlanner {
 public:
  WindowPlanner(Chooser& chooser, const model::Config& config, const Caches& caches, int64_t layer,
                const model::StoredLayer& weights)
      : chooser_(chooser),
        c_(config),
        caches_(caches.layers[static_cast<size_t>(layer)]),
        row_(caches.kv_row),
        ring_(caches.ring),
        layer_(layer),
        ratio_(config.ratio(layer)),
        w_(weights) {}

  WindowAttentionPlan make() {
    const model::StoredWindowAttention& w = *w_.window;
    WindowAttentionPlan plan;
    plan.qkv_a = chooser_.choose_joined(layer_, {"q_a", w_.q_a}, {"kv", w.kv});
    if (!plan.qkv_a) plan.q_a = chooser_.choose_linear(layer_, "q_a", w_.q_a);
    plan.q_a_norm = chooser_.choose_norm(layer_, "norm q_a", c_.q_lora, c_.latent_norm_eps);
    plan.q_b = chooser_.choose_linear(layer_, "q_b", w_.q_b);
    plan.query = chooser_.choose(
        layer_, "query_prepare", fmt::format("{} heads of {}", c_.heads, head_dim()), catalog().query_prepare,
        query_prepare::Problem{setting(), c_.heads, head_dim(), c_.rope, c_.norm_eps});
    if (!plan.qkv_a) plan.kv = chooser_.choose_linear(layer_, "kv", w.kv);
    plan.kv_prepare = chooser_.choose(
        layer_, "kv_prepare", fmt::format("window of {}, {}", c_.window->window, row_text(ring_)),
        catalog().kv_prepare,
        kv_prepare::Problem{setting(), head_dim(), c_.rope, c_.norm_eps, chooser_.sequences(), ring_});
    if (w.compressor)
      plan.compressor =
          choose_compressor("compressor", *w.compressor, compressor::Kind::kEntries, head_dim());
    if (c_.has_indexer(layer_)) plan.indexer = make_indexer();
    plan.attention = choose_attention();
    plan.o_a = chooser_.choose(
        layer_, "head_projection o_a", fmt::format("{} groups, {}", c_.window->o_groups, shaped(w.o_a)),
        catalog().head_projection,
        head_projection::Problem{setting(), head_projection::Direction::kToRows, c_.window->o_groups,
                                 c_.window->o_lora, 0, c_.window->o_lora, w.o_a.in, format_of(w.o_a),
                                 chooser_.batch()});
    plan.o_b = chooser_.choose_linear(layer_, "o_b", w.o_b);
    return plan;
  }

 private:
  const Setting& setting() const { return chooser_.setting(); }
  int64_t head_dim() const { return c_.window->head_dim; }

  std::string row_text(int64_t rows) const {
    return fmt::format("{} rows {} [{} + {}], {} bytes each", rows, value_name(row_.form), row_.nope,
                       row_.rope, row_.bytes() + row_.scale_bytes());
  }

  CompressorStep choose_compressor(const std::string& name, const model::StoredCompressor& w,
                                   compressor::Kind kind, int64_t dim) {
    const std::string made = kind == compressor::Kind::kEntries
                                 ? row_text(caches_.entry_rows)
                                 : fmt::format("{} index keys [{}]", caches_.index_rows, dim);
    return chooser_.choose(
        layer_, name, fmt::format("ratio {}, {}; {}", ratio_, shaped(w.kv), made), catalog().compressor,
        compressor::Problem{setting(), c_.hidden, ratio_, dim, c_.rope, c_.norm_eps, kind, format_of(w.kv),
                            format_of(w.gate), chooser_.sequences(), caches_.entry_rows, chooser_.batch()});
  }

  EntryIndexerPlan make_indexer() {
    const model::StoredIndexer& w = w_.indexer;
    EntryIndexerPlan plan;
    plan.q = chooser_.choose_linear(layer_, "index_q", w.q);
    plan.gate = choose_gate(w.gate);
    plan.keys =
        choose_compressor("compressor index", *w.compressor, compressor::Kind::kIndexKeys, c_.index_dim);
    plan.prepare = chooser_.choose(
        layer_, "indexer_prepare", fmt::format("interleaved, the last {} of {}", c_.rope, c_.index_dim),
        catalog().indexer_prepare,
        indexer_prepare::Problem{setting(), c_.index_heads, c_.index_dim, c_.rope,
                                 rotary::Layout::kInterleaved, chooser_.sequences(), chooser_.context(),
                                 false, c_.index_dim - c_.rope});
    plan.select = chooser_.choose(
        layer_, "index_select", fmt::format("top {} of {} entries", selected(), caches_.entry_rows),
        catalog().index_select,
        index_select::Problem{setting(), c_.index_heads, c_.index_dim, selected(), chooser_.sequences(),
                              caches_.entry_rows, chooser_.batch(), ratio_});
    return plan;
  }

  // The head gate alone: no index key comes from the same input in one row. indexer_prepare rounds it.
  LinearStep choose_gate(const StoredMatrix& gate) {
    const Numerics& n = setting().numerics;
    if (!quantizes_gate(gate, n))
      return chooser_.choose_linear(layer_, "index_gate", gate, linear::Output::kF32);
    const MatrixFormat format = gate_format(gate, n);
    return chooser_.choose(
        layer_, "linear index_gate", shaped(gate) + " quantized to " + describe(format), catalog().linear,
        linear::Problem{setting(), gate.in, gate.out, format, linear::Output::kF32, chooser_.batch()});
  }

  int64_t selected() const { return std::min(c_.index_topk, caches_.entry_rows); }

  CompressedAttentionStep choose_attention() {
    const int64_t topk = c_.has_indexer(layer_) ? selected() : 0;
    std::string seen = fmt::format("window of {}", c_.window->window);
    if (ratio_ != 0)
      seen += topk != 0 ? fmt::format(" and {} entries of ratio {}", topk, ratio_)
                        : fmt::format(" and every entry of ratio {}", ratio_);
    return chooser_.choose(
        layer_, "compressed_attention", fmt::format("{} heads of {}, {}", c_.heads, head_dim(), seen),
        catalog().compressed_attention,
        compressed_attention::Problem{setting(), c_.heads, head_dim(), c_.rope, c_.window->window, ratio_,
                                      topk, c_.softmax_scale(), chooser_.sequences(), ring_,
                                      caches_.entry_rows, chooser_.context(), chooser_.batch()});
  }

  Chooser& chooser_;
  const model::Config& c_;
  const LayerCaches& caches_;
  const KvRow& row_;
  const int64_t ring_;
  const int64_t layer_;
  const int64_t ratio_;
  const model::StoredLayer& w_;
};

}  // namespace

WindowAttentionPlan plan_window_attention(Chooser& chooser, const model::Config& config, const Caches& caches,
                                          int64_t layer, const model::StoredLayer& weights) {
  return WindowPlanner(chooser, config, caches, layer, weights).make();
}

}  // namespace fulgurite::plan
