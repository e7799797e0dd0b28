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

}  // namespace

void enter_block(const Site& site, const Activations& at, const plan::CountedLane& lane, Tap* tap) {
  Tap::Replacement replacement;
  if (tap != nullptr && site.left != model::kNoLayer) replacement = tap->replaced_hidden(site.left);
  const int64_t kept = replacement.rows ? replacement.first_token : at.tokens;
  const auto take_up = site.plan.streams ? mix_streams : add_and_norm;
  for (const Part& part : {Part{0, kept, {}}, Part{kept, at.tokens - kept, replacement.rows}})
    if (part.count > 0) take_up(site, part, at, lane);
  if (tap != nullptr && site.left != model::kNoLayer) {
    if (site.plan.streams)
      tap->at(TapPoint::kHidden, site.left, tap_tensor(at.streams));
    else
      tap->at(TapPoint::kHidden, site.left, tap_tensor(at.stream));
  }
  if (site.plan.streams) site.plan.norm.run({at.stream, {}, {}, site.norm, {}, at.normed}, at.tokens, lane);
}

}  // namespace fulgurite::execute
