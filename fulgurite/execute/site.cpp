#include "fulgurite/execute/site.h"

namespace fulgurite::execute {
namespace {

// Tokens [first, first + count), whose sum `replaced` may stand for.
struct Part {
  int64_t first = 0;
  int64_t count = 0;
  View<const float, 2> replaced;
};

void add_and_norm(const Site& site, const Part& part, const Activations& at, const plan::CountedLane& lane) {
  const Tensor<2> stream = rows(at.stream, part.first, part.count);
  site.plan.norm.run({stream, rows(at.block, part.first, part.count), part.replaced, site.norm, stream,
                      rows(at.normed, part.first, part.count)},
                     part.count, lane);
}

void mix_streams(const Site& site, const Part& part, const Activations& at, const plan::CountedLane& lane) {
  const Tensor<3> streams = rows(at.streams, part.first, part.count);
  const View<float, 2> post = at.post.slice(0, part.first, part.count);
  const View<float, 3> mix = at.mix.slice(0, part.first, part.count);
  const plan::PreparedStreams& w = site.streams;
  hyper_connection::Args args{streams,       {},   {},     {},
                              part.replaced, w.fn, w.base, w.scale,
                              streams,       post, mix,    rows(at.stream, part.first, part.count)};
  if (!site.first) {
    args.block = rows(at.block, part.first, part.count);
    args.post = post;
    args.mix = mix;
  }
  site.plan.streams->run(args, part.count, lane);
}

void show_hidden(const Site& site, const Activations& at, Tap& tap) {
  tap.at(TapPoint::kHidden, site.left, site.plan.streams ? tap_tensor(at.streams) : tap_tensor(at.stream));
}

// What the streams collapsed to, before the norm reads it.
void show_collapsed(const Site& site, const Activations& at, Tap* tap) {
  if (tap == nullptr || site.attention_of == model::kNoLayer) return;
  tap->at(TapPoint::kAttnIn, site.attention_of, tap_tensor(at.stream));
  tap->replace(TapPoint::kAttnIn, site.attention_of, tap_tensor(at.stream));
}

}  // namespace

void enter_block(const Site& site, const Activations& at, const plan::CountedLane& lane, Tap* tap) {
  const auto take_up = site.plan.streams ? mix_streams : add_and_norm;
  const bool leaves = tap != nullptr && site.left != model::kNoLayer;
  const bool compares = leaves && site.plan.streams && tap->compares_hidden();
  if (leaves && !site.plan.streams) tap->before_sum(site.left, at.stream, at.block);
  if (compares) {
    take_up(site, {0, at.tokens, {}}, at, lane);
    show_hidden(site, at, *tap);
  }
  Tap::Replacement replacement;
  if (leaves) replacement = tap->replaced_hidden(site.left);
  const int64_t kept = replacement.rows ? replacement.first_token : at.tokens;
  if (kept > 0 && !compares) take_up(site, {0, kept, {}}, at, lane);
  if (kept < at.tokens) take_up(site, {kept, at.tokens - kept, replacement.rows}, at, lane);
  if (leaves && !compares) show_hidden(site, at, *tap);
  if (!site.plan.streams) return;
  show_collapsed(site, at, tap);
  site.plan.norm.run({at.stream, {}, {}, site.norm, {}, at.normed}, at.tokens, lane);
}

}  // namespace fulgurite::execute
