#include "fulgurite/execute/window_attention.h"

#include "fulgurite/core/element.h"
#include "fulgurite/execute/index_queries.h"
#include "fulgurite/execute/query_latent.h"
#include "fulgurite/ops/indexer_prepare/index_row.h"

namespace fulgurite::execute {
namespace {

void project_query(const LayerContext& c, const plan::WindowAttentionPlan& p) {
  project_query_latent(c, p);
  p.query.run({c.at.q, c.at.places, c.rope, c.at.q_normed}, c.at.tokens, c.lane);
  if (c.at.q_normed) c.show(TapPoint::kQNormed, c.at.q_normed);
  c.show(TapPoint::kQ, c.at.q);
}

// Rows of a cache that the tokens wrote. row_of(position) is where one stands, below 0: nowhere.
template <class RowOf>
struct TokenRows {
  const LayerContext& c;
  const KvRows& rows;
  KvQuant quant;
  RowOf row_of;

  // As attention reads them, in at.kv: its values are in the cache, so it is free to be overwritten.
  void gather() const {
    each([&](TokenPlace place, int64_t row, int64_t t) {
      for (int64_t i = 0; i < c.at.kv.extent[1]; ++i)
        store(c.at.kv, rows.value(place.sequence, row, i), t, i);
    });
  }
  // And back: others may stand there. A row in codes is made of the same codes again.
  void scatter() const {
    const KvQuant again = rows.row.form == LatentCache::kFp8 ? quant : KvQuant::kNone;
    std::vector<float> values(static_cast<size_t>(c.at.kv.extent[1]));
    each([&](TokenPlace place, int64_t row, int64_t t) {
      for (size_t i = 0; i < values.size(); ++i) values[i] = load(c.at.kv, t, i);
      store_kv_row(rows, place.sequence, row, values, again);
    });
  }

 private:
  template <class Visit>
  void each(const Visit& visit) const {
    for (int64_t t = 0; t < c.at.tokens; ++t)
      if (const int64_t row = row_of(c.at.places(t).position); row >= 0) visit(c.at.places(t), row, t);
  }
};

template <class RowOf>
void show_rows(const LayerContext& c, TapPoint point, int64_t every, const KvRows& rows, KvQuant quant,
               const RowOf& row_of) {
  const TokenRows<RowOf> of_tokens{c, rows, quant, row_of};
  of_tokens.gather();
  TapTensor shown = tap_tensor(c.at.kv);
  shown.every = every;
  if (c.show(point, shown)) of_tokens.scatter();
}

void cache_window(const LayerContext& c, const plan::WindowAttentionPlan& p) {
  const Activations& at = c.at;
  if (!p.qkv_a) p.kv.run({at.normed, &c.weights.window.kv, at.kv}, at.tokens, c.lane);
  p.kv_prepare.run({at.kv, c.weights.window.kv_norm, at.places, c.rope, c.caches.window}, at.tokens, c.lane);
  if (c.tap == nullptr) return;
  const int64_t ring = p.kv_prepare.problem.ring;
  show_rows(c, TapPoint::kKv, 1, c.caches.window, p.kv_prepare.problem.setting.numerics.kv_quant,
            [ring](int64_t position) { return position % ring; });
}

// Of a compressor with its weights and state: into entries or index keys, the other being without data.
void compress_into(const LayerContext& c, const plan::CompressorStep& step, const plan::PreparedCompressor& w,
                   View<float, 4> state, const KvRows& entries, const IndexKeys& keys) {
  const Activations& at = c.at;
  step.run({at.normed, &w.kv, &w.gate, w.ape, w.norm, at.places, c.rope, state, entries, keys, {}, {}},
           at.tokens, c.lane);
}

void compress(const LayerContext& c, const plan::CompressorStep& step) {
  compress_into(c, step, c.weights.window.compressor, c.caches.state, c.caches.entries, {});
  if (c.tap == nullptr) return;
  const compressor::Problem& problem = step.problem;
  show_rows(c, TapPoint::kEntries, problem.ratio, c.caches.entries, problem.setting.numerics.kv_quant,
            [&](int64_t position) {
              return compressor::ends_window(problem, position) ? position / problem.ratio : -1;
            });
}

float key_value(const IndexKeys& keys, int64_t sequence, int64_t row, int64_t i) {
  if (keys.keys.dtype != DType::kF8_E4M3) return load(keys.keys, sequence, row, i);
  return to_float(keys.keys.as<e4m3>()(sequence, row, i)) * keys.scales(sequence, row);
}

// The index keys that these tokens complete, as the selection reads them.
void show_index_keys(const LayerContext& c, const plan::CompressorStep& step) {
  if (c.tap == nullptr) return;
  const IndexKeys& keys = c.caches.index;
  for (int64_t t = 0; t < c.at.tokens; ++t) {
    const TokenPlace place = c.at.places(t);
    if (!compressor::ends_window(step.problem, place.position)) continue;
    const int64_t row = place.position / step.problem.ratio;
    for (int64_t i = 0; i < step.problem.dim; ++i)
      store(c.at.index_k, key_value(keys, place.sequence, row, i), t, i);
  }
  TapTensor shown = tap_tensor(c.at.index_k);
  shown.every = step.problem.ratio;
  if (!c.show(TapPoint::kIndexK, shown)) return;
  for (int64_t t = 0; t < c.at.tokens; ++t)
    if (const TokenPlace place = c.at.places(t); compressor::ends_window(step.problem, place.position))
      indexer_prepare::store_key(step.problem.setting.numerics, c.at.index_k[t], place.sequence,
                                 place.position / step.problem.ratio, keys);
}

void select_entries(const LayerContext& c, const plan::EntryIndexerPlan& p) {
  const Activations& at = c.at;
  p.q.run({at.q_latent, &c.weights.index_q, flat(at.index_q)}, at.tokens, c.lane);
  p.gate.run({at.normed, &c.weights.index_gate, Tensor<2>(at.index_gate)}, at.tokens, c.lane);
  compress_into(c, p.keys, c.weights.window.index_keys, c.caches.index_state, {}, c.caches.index);
  show_index_keys(c, p.keys);
  p.prepare.run({at.index_q,
                 {},
                 at.index_gate,
                 {},
                 {},
                 at.places,
                 c.rope,
                 at.index_weights,
                 {},
                 at.index_operand,
                 at.rotated_q,
                 {}},
                at.tokens, c.lane);
  if (at.rotated_q && c.show(TapPoint::kIndexQ, at.rotated_q)) remake_index_queries(c, p.prepare.problem);
  c.show(TapPoint::kIndexWeights, at.index_weights);
  p.select.run({at.index_operand, at.index_weights, c.caches.index, at.places, at.selected, at.index_scores},
               at.tokens, c.lane);
  if (c.tap != nullptr && at.index_scores) {
    TapTensor scores = tap_tensor(Tensor<2>(at.index_scores));
    scores.column_tokens = p.select.problem.ratio;
    c.show(TapPoint::kIndexScores, scores);
  }
  c.show(TapPoint::kTopk, at.selected);
}

}  // namespace

void run_window_attention(const LayerContext& c) {
  const plan::WindowAttentionPlan& p = *c.plan.window;
  const Activations& at = c.at;
  project_query(c, p);
  cache_window(c, p);
  if (p.compressor) compress(c, *p.compressor);
  if (p.indexer) select_entries(c, *p.indexer);
  const View<const int32_t, 2> selected =
      p.indexer ? View<const int32_t, 2>(at.selected) : View<const int32_t, 2>();
  p.attention.run({at.q, c.weights.window.sink, c.caches.window, c.caches.entries, selected, at.places,
                   c.rope, at.head_outputs},
                  at.tokens, c.lane);
  c.show(TapPoint::kAttnHeads, at.head_outputs);
  p.o_a.run({grouped(at.head_outputs, at.grouped.extent[1]), &c.weights.window.o_a, at.grouped}, at.tokens,
            c.lane);
  p.o_b.run({flat(at.grouped), &c.weights.window.o_b, at.block}, at.tokens, c.lane);
  c.show(TapPoint::kAttnOut, at.block);
}

}  // namespace fulgurite::execute
