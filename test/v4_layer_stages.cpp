// The stages of test/v4_layer.h, in the order in which a decoder layer runs them.

#include "test/v4_layer.h"

namespace fulgurite::test::v4 {
namespace {

constexpr float kEps = 1e-6f;
constexpr MatrixFormat kFp8{MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kE8M0};
constexpr MatrixFormat kBf16{MatrixForm::kBF16, {}, ScaleFormat::kF32};

View<const float, 1> all(const std::vector<float>& values) {
  return {values.data(), {static_cast<int64_t>(values.size())}};
}

// What the tokens' rows of a cache are worth; row_of(position) is where one stands, or -1.
template <class RowOf>
std::vector<float> rows_of_tokens(const KvCache& cache, View<const TokenPlace, 1> places,
                                  const RowOf& row_of) {
  KvCache copy = cache;
  std::vector<float> values;
  for (int64_t t = 0; t < places.extent[0]; ++t) {
    const int64_t row = row_of(places(t).position);
    for (int64_t i = 0; row >= 0 && i < kHeadDim; ++i)
      values.push_back(copy.rows().value(places(t).sequence, row, i));
  }
  return values;
}

template <class Part>
Stage stage(const char* name, std::function<void(Side, Values&)> run, Part Values::*part) {
  return {name, std::move(run), [part](const Values& v) { return (v.*part).values(); }};
}
void norm_rows(Side side, Field<2>& x, const std::vector<float>& weight, Field<2>& out) {
  const norm::Problem problem{serving(), x.extent[1], kEps};
  run_row(side, plan::catalog().norm, problem, norm::Args{x.view(), {}, {}, all(weight), {}, out.view()});
}

}  // namespace

// Before attention: mixing alone. After it: the update, and the mixing before the next block.
void Layer::update(Side side, Values& v, bool after_block) const {
  hyper_connection::Problem problem;
  problem.setting = setting_;
  problem.hidden = d_.hidden;
  problem.largest_batch = tokens();
  hyper_connection::Args args;
  args.streams = v.streams.view();
  args.fn = {w_.fn.data(), {24, kStreams * d_.hidden}};
  args.base = all(w_.base);
  args.scale = all(w_.scale);
  args.streams_out = v.x_out.view();
  args.post_out = (after_block ? v.next_post : v.post).floats();
  args.mix_out = (after_block ? v.next_mix : v.mix).floats();
  args.collapsed = (after_block ? v.next_collapsed : v.collapsed).view();
  if (after_block) {
    args.block = v.block.view();
    args.post = v.post.floats();
    args.mix = v.mix.floats();
  }
  run_row(side, plan::catalog().hyper_connection, problem, args);
}

void Layer::add_mixing(std::vector<Stage>& stages) {
  stages.push_back(stage(
      "collapsed", [this](Side side, Values& v) { update(side, v, false); }, &Values::collapsed));
  stages.push_back(stage(
      "post", [](Side, Values&) {}, &Values::post));
  stages.push_back(stage(
      "mix", [](Side, Values&) {}, &Values::mix));
  stages.push_back(stage(
      "norm", [this](Side side, Values& v) { norm_rows(side, v.collapsed, w_.attn_norm, v.normed); },
      &Values::normed));
}

// What qkv_proj_rope is, and the window's rows.
void Layer::add_projections(std::vector<Stage>& stages) {
  stages.push_back(stage(
      "q_a", [this](Side side, Values& v) { project(side, v.normed.view(), w_.q_a, v.q_latent.view()); },
      &Values::q_latent));
  stages.push_back(stage(
      "norm q_a", [this](Side side, Values& v) { norm_rows(side, v.q_latent, w_.q_norm, v.q_latent_normed); },
      &Values::q_latent_normed));
  stages.push_back(stage(
      "q",
      [this](Side side, Values& v) {
        project(side, v.q_latent_normed.view(), w_.q_b, v.q_raw.flat());
        v.q = v.q_raw;
        const query_prepare::Problem problem{setting_, d_.heads, kHeadDim, kRope, kEps};
        run_row(side, plan::catalog().query_prepare, problem,
                query_prepare::Args{v.q.view(), places(), table(), {}});
      },
      &Values::q));
  stages.push_back(
      {"kv",
       [this](Side side, Values& v) {
         project(side, v.normed.view(), w_.kv, v.kv_raw.view());
         const kv_prepare::Problem problem{setting_, kHeadDim, kRope, kEps, sequences_, ring()};
         run_row(side, plan::catalog().kv_prepare, problem,
                 kv_prepare::Args{v.kv_raw.view(), all(w_.kv_norm), places(), table(), v.window.rows()});
       },
       [this](const Values& v) {
         return rows_of_tokens(v.window, places(), [&](int64_t position) { return position % ring(); });
       }});
}

void Layer::compress(Side side, Values& v, bool keys) const {
  compressor::Problem problem{setting_,
                              d_.hidden,
                              ratio_,
                              keys ? kIndexDim : kHeadDim,
                              kRope,
                              kEps,
                              keys ? compressor::Kind::kIndexKeys : compressor::Kind::kEntries,
                              kBf16,
                              kBf16,
                              sequences_,
                              entries(),
                              tokens()};
  const int64_t width = compressor::width(problem);
  compressor::Args args;
  args.x = v.normed.view();
  args.wkv = &(keys ? w_.index_wkv : w_.wkv).view;
  args.wgate = &(keys ? w_.index_wgate : w_.wgate).view;
  args.ape = {(keys ? w_.key_ape : w_.ape).data(), {ratio_, width}};
  args.norm = all(keys ? w_.key_norm : w_.entry_norm);
  args.places = places();
  args.table = table();
  args.state = (keys ? v.index_state : v.state).floats();
  if (keys)
    args.keys.keys = v.index_keys.view();
  else
    args.entries = v.entries.rows();
  run_row(side, plan::catalog().compressor, problem, args);
}

void Layer::add_entries(std::vector<Stage>& stages) {
  stages.push_back({"entries", [this](Side side, Values& v) { compress(side, v, false); },
                    [this](const Values& v) {
                      return rows_of_tokens(v.entries, places(), [&](int64_t position) {
                        return (position + 1) % ratio_ == 0 ? position / ratio_ : -1;
                      });
                    }});
  stages.push_back(stage(
      "state", [](Side, Values&) {}, &Values::state));
}

void Layer::add_indexer(std::vector<Stage>& stages) {
  stages.push_back(stage(
      "index keys", [this](Side side, Values& v) { compress(side, v, true); }, &Values::index_keys));
  stages.push_back(stage(
      "index q",
      [this](Side side, Values& v) {
        project(side, v.q_latent_normed.view(), w_.index_q, v.index_q.flat());
        project(side, v.normed.view(), w_.index_gate, v.index_gate.view());
        const indexer_prepare::Problem problem{
            setting_, kIndexHeads, kIndexDim,        kRope, rotary::Layout::kInterleaved, sequences_,
            kContext, false,       kIndexDim - kRope};
        indexer_prepare::Args args;
        args.q = v.index_q.view();
        args.gate = v.index_gate.floats();
        args.places = places();
        args.table = table();
        args.weights = v.index_weights.floats();
        args.q_operand = v.index_operand.view();
        run_row(side, plan::catalog().indexer_prepare, problem, args);
      },
      &Values::index_operand));
  stages.push_back(stage(
      "selected",
      [this](Side side, Values& v) {
        const index_select::Problem problem{setting_,   kIndexHeads, kIndexDim, topk(),
                                            sequences_, entries(),   tokens(),  ratio_};
        index_select::Args args;
        args.q = v.index_operand.view();
        args.weights = v.index_weights.floats();
        args.key_cache.keys = v.index_keys.view();
        args.places = places();
        args.selected = v.selected.view().as<int32_t>();
        run_row(side, plan::catalog().index_select, problem, args);
      },
      &Values::selected));
}

void Layer::add_attention(std::vector<Stage>& stages) {
  stages.push_back(stage(
      "attention",
      [this](Side side, Values& v) {
        const compressed_attention::Problem problem{setting_,  d_.heads, kHeadDim,    kRope,      kWindow,
                                                    ratio_,    topk(),   0.04419417f, sequences_, ring(),
                                                    entries(), kContext, tokens()};
        compressed_attention::Args args;
        args.q = v.q.view();
        args.sink = all(w_.sink);
        args.window = v.window.rows();
        if (ratio_ != 0) args.entries = v.entries.rows();
        if (topk() > 0) args.selected = v.selected.view().as<int32_t>();
        args.places = places();
        args.table = table();
        args.out = v.attended.view();
        run_row(side, plan::catalog().compressed_attention, problem, args);
      },
      &Values::attended));
  stages.push_back(stage(
      "o_a",
      [this](Side side, Values& v) {
        const int64_t in = d_.heads * kHeadDim / d_.groups;
        const head_projection::Problem problem{
            setting_, head_projection::Direction::kToRows, d_.groups, kOutputRank, 0, kOutputRank, in, kFp8,
            tokens()};
        run_row(side, plan::catalog().head_projection, problem,
                head_projection::Args{v.attended.view<3>({tokens(), d_.groups, in}), &w_.o_a.view,
                                      v.grouped.view()});
      },
      &Values::grouped));
  stages.push_back(stage(
      "o_b", [this](Side side, Values& v) { project(side, v.grouped.flat(), w_.o_b, v.block.view()); },
      &Values::block));
  stages.push_back(stage(
      "x_out", [this](Side side, Values& v) { update(side, v, true); }, &Values::x_out));
}

}  // namespace fulgurite::test::v4
