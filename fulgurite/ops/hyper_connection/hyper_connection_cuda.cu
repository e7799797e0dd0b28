#include <algorithm>

#include "fulgurite/core/element.h"
#include "fulgurite/cuda/generic.h"
#include "fulgurite/ops/hyper_connection/coefficients.h"

namespace fulgurite::hyper_connection {
namespace {

using cuda::kChunk;
constexpr int64_t kMostOutputs = 2 * kStreams + kStreams * kStreams;

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

// Of a chunk of tokens, in fp32.
struct Sums {
  float* products = nullptr;  // [tokens, outputs], and the mean square of each
  float* pre = nullptr;       // [tokens, 4]
};

Sums sums_of(const Problem& problem, cuda::Scratch& scratch) {
  Sums sums;
  sums.products = scratch.take<float>(kChunk * (outputs(problem) + 1));
  sums.pre = scratch.take<float>(kChunk * kStreams);
  return sums;
}

// A chunk of tokens, which begins with `first`.
struct Chunk {
  Problem problem;
  Args args;
  int64_t first;
  Sums sums;

  // What mixing and collapse read of X': once Update is through, the streams as they are stored.
  FULGURITE_HOST_DEVICE float read(int64_t t, int64_t k, int64_t i) const {
    if (args.replaced) return args.replaced(t, k * problem.hidden + i);
    return args.block ? load(args.streams_out, t, k, i) : load(args.streams, t, k, i);
  }
};

// Index: a token's column, of all streams, which may be updated where they lie.
struct Update {
  Chunk chunk;

  FULGURITE_HOST_DEVICE float updated(int64_t t, int64_t k, int64_t i, const float* streams) const {
    const Args& args = chunk.args;
    if (args.replaced) return args.replaced(t, k * chunk.problem.hidden + i);
    float sum = 0.0f + args.post(t, k) * load(args.block, t, i);
    for (int64_t j = 0; j < kStreams; ++j) sum += args.mix(t, j, k) * streams[j];
    return sum;
  }

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t t = chunk.first + index / chunk.problem.hidden, i = index % chunk.problem.hidden;
    float streams[kStreams];
    for (int64_t k = 0; k < kStreams; ++k) streams[k] = load(chunk.args.streams, t, k, i);
    for (int64_t k = 0; k < kStreams; ++k) store(chunk.args.streams_out, updated(t, k, i, streams), t, k, i);
  }
};

// Index: a token's sum of products; the last of its sums is the mean square.
struct Sum {
  Chunk chunk;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t hidden = chunk.problem.hidden, rows = outputs(chunk.problem);
    const int64_t t = chunk.first + index / (rows + 1), n = index % (rows + 1);
    double sum = 0.0;
    for (int64_t k = 0; k < kStreams; ++k) {
      for (int64_t i = 0; i < hidden; ++i) {
        const float x = chunk.read(t, k, i), other = n < rows ? chunk.args.fn(n, k * hidden + i) : x;
        sum += static_cast<double>(x) * static_cast<double>(other);
      }
    }
    if (n == rows) sum /= static_cast<double>(kStreams * hidden);
    chunk.sums.products[index] = static_cast<float>(sum);
  }
};

// Index: a token.
struct Mix {
  Chunk chunk;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const Problem& problem = chunk.problem;
    const int64_t t = chunk.first + index, rows = outputs(problem);
    const float* const products = chunk.sums.products + index * (rows + 1);
    const float r = cuda::reciprocal_sqrt(products[rows] + problem.norm_eps, problem.setting.numerics);
    float m[kMostOutputs];
    for (int64_t n = 0; n < rows; ++n) m[n] = products[n] * r;
    const Coefficients made = coefficients_of(problem, chunk.args, m);
    for (int64_t j = 0; j < kStreams; ++j) chunk.sums.pre[index * kStreams + j] = made.pre[j];
    for (int64_t j = 0; j < kStreams && problem.kind == Kind::kLayer; ++j) {
      chunk.args.post_out(t, j) = made.post[j];
      for (int64_t k = 0; k < kStreams; ++k) chunk.args.mix_out(t, j, k) = made.mix[j][k];
    }
  }
};

// Index: a token's column.
struct Collapse {
  Chunk chunk;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t hidden = chunk.problem.hidden, i = index % hidden;
    const int64_t t = chunk.first + index / hidden;
    const float* const pre = chunk.sums.pre + index / hidden * kStreams;
    float sum = 0.0f;
    for (int64_t j = 0; j < kStreams; ++j) sum += pre[j] * chunk.read(t, j, i);
    store(chunk.args.collapsed, sum, t, i);
  }
};

int64_t workspace_bytes(const Problem& problem, int) {
  cuda::Scratch scratch;
  sums_of(problem, scratch);
  return scratch.used();
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cuda::Scratch scratch(lane);
  const Sums sums = sums_of(problem, scratch);
  const int64_t tokens = args.streams.extent[0];
  cuda::for_each_chunk(tokens, kChunk, [&](int64_t first, int64_t count) {
    const Chunk chunk{problem, args, first, sums};
    if (updates(args)) cuda::for_each(lane, count * problem.hidden, Update{chunk});
    cuda::for_each(lane, count * (outputs(problem) + 1), Sum{chunk});
    cuda::for_each(lane, count, Mix{chunk});
    cuda::for_each(lane, count * problem.hidden, Collapse{chunk});
  });
}

}  // namespace

const Implementation kCuda{"cuda", supports, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::hyper_connection
