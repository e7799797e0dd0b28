// Some tokens at a time, in pieces of columns that the threads share: a piece of the streams is updated,
// written, and while it is in cache multiplied with its columns of fn, which a chunk of tokens reads once.
// Sums are double, as the contract's, so that coefficients are nearly always the reference's bits: one ulp of
// theirs moves some bf16 values of the collapse, which are quantized next, and a code of those moves all of q.
// Then come the coefficients, token by token, and the collapse.

#include <algorithm>

#include "fulgurite/core/rounding.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/hyper_connection/coefficients.h"

namespace fulgurite::hyper_connection {
namespace {

constexpr int64_t kPiece = 256;  // columns
constexpr int64_t kChunk = 16;   // tokens
constexpr int64_t kMostOutputs = 24;
constexpr int64_t kInputs = 1 + kStreams;  // of the update: the block and the streams

Support supports(const Problem& problem) { return kReference.supports(problem); }

int64_t pieces_of(const Problem& problem) { return (problem.hidden + kPiece - 1) / kPiece; }
int64_t chunk_of(const Problem& problem) {
  return problem.largest_batch > 0 ? std::min(problem.largest_batch, kChunk) : kChunk;
}

// Of a piece and a token.
struct PieceSums {
  double squares;
  double dots[kMostOutputs];
};

// Of a thread.
struct PieceMemory {
  float* x;       // [chunk, kStreams, kPiece]: X'
  float* inputs;  // [kInputs, kPiece]
  double* dots;   // [chunk, kMostOutputs]
};

struct Scratch {
  PieceSums* sums;             // [pieces, chunk]
  Coefficients* coefficients;  // [chunk]
  PieceMemory piece;
};

Scratch cut(const Problem& problem, int64_t thread, int64_t threads, cpu::Cutter& cutter) {
  const int64_t chunk = chunk_of(problem);
  const auto own = [&](int64_t floats) { return cutter.take<float>(threads * floats) + thread * floats; };
  const int64_t dots = chunk * kMostOutputs;
  Scratch scratch;
  scratch.sums = cutter.take<PieceSums>(pieces_of(problem) * chunk);
  scratch.coefficients = cutter.take<Coefficients>(chunk);
  scratch.piece = {own(chunk * kStreams * kPiece), own(kInputs * kPiece),
                   cutter.take<double>(threads * dots) + thread * dots};
  return scratch;
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cutter(nullptr);
  cut(problem, 0, threads, cutter);
  return cutter.bytes();
}

struct Columns {
  int64_t first;
  int64_t count;
};
Columns columns_of(const Problem& problem, int64_t piece) {
  return {piece * kPiece, std::min(kPiece, problem.hidden - piece * kPiece)};
}

// Columns of a row as fp32 in `to`, wherever they stand.
void widen(const cpu::Kernels& kernels, const ConstTensor<1>& row, Columns columns, float* to) {
  const float* const from = cpu::as_floats(kernels, row, columns.first, columns.count, to);
  if (from != to) std::copy_n(from, columns.count, to);
}

// Columns of X' of token t as fp32, [kStreams, kPiece], once the streams are written.
void read_streams(const cpu::Kernels& kernels, const Problem& problem, const Args& args, int64_t t,
                  Columns columns, float* x) {
  for (int64_t k = 0; k < kStreams; ++k) {
    float* const to = x + k * kPiece;
    if (args.replaced)
      std::copy_n(args.replaced[t].data + k * problem.hidden + columns.first, columns.count, to);
    else
      widen(kernels, args.block ? ConstTensor<1>(args.streams_out[t][k]) : args.streams[t][k], columns, to);
  }
}

// X' = post y + C^T X: rows of (post_k, C_0k, ... C_3k) times rows of y, X_0, ... X_3, each product and sum
// rounded, ascending from 0.
void mix_block(const cpu::Kernels& kernels, const Args& args, int64_t t, Columns columns, float* inputs,
               float* x) {
  float factors[kStreams][kInputs];
  for (int64_t k = 0; k < kStreams; ++k) {
    factors[k][0] = args.post(t, k);
    for (int64_t j = 0; j < kStreams; ++j) factors[k][1 + j] = args.mix(t, j, k);
  }
  widen(kernels, args.block[t], columns, inputs);
  for (int64_t j = 0; j < kStreams; ++j)
    widen(kernels, args.streams[t][j], columns, inputs + (1 + j) * kPiece);
  kernels.combine_rows(factors[0], kInputs, 1, kStreams, {inputs, kPiece, kInputs}, columns.count, x, kPiece);
  for (int64_t k = 0; k < kStreams; ++k)
    cpu::round_floats(kernels, args.streams.dtype, x + k * kPiece, columns.count);
}

// X' of token t, stored where the streams change.
void update(const cpu::Kernels& kernels, const Problem& problem, const Args& args, int64_t t, Columns columns,
            const PieceMemory& memory, float* x) {
  if (args.block && !args.replaced)
    mix_block(kernels, args, t, columns, memory.inputs, x);
  else
    read_streams(kernels, problem, args, t, columns, x);
  if (!updates(args)) return;
  for (int64_t k = 0; k < kStreams; ++k)
    cpu::write_floats(kernels, x + k * kPiece, columns.first, columns.count, args.streams_out[t][k]);
}

void sum_piece(const cpu::Kernels& kernels, const Problem& problem, const Args& args, Columns columns,
               const PieceMemory& memory, PieceSums* sums) {
  const int64_t tokens = args.streams.extent[0], count = outputs(problem);
  for (int64_t t = 0; t < tokens; ++t) {
    float* const x = memory.x + t * kStreams * kPiece;
    update(kernels, problem, args, t, columns, memory, x);
    sums[t] = {};
    for (int64_t k = 0; k < kStreams; ++k)
      sums[t].squares += kernels.sum_squares(x + k * kPiece, columns.count);
  }
  for (int64_t k = 0; k < kStreams; ++k) {
    const cpu::Rows x{memory.x + k * kPiece, kStreams * kPiece, tokens};
    const cpu::Rows fn{args.fn.data + k * problem.hidden + columns.first, args.fn.stride[0], count};
    kernels.dot_rows_in_double(x, fn, columns.count, memory.dots, kMostOutputs);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t n = 0; n < count; ++n) sums[t].dots[n] += memory.dots[t * kMostOutputs + n];
  }
}

Coefficients finish(const Problem& problem, const Args& args, const PieceSums* sums, int64_t t) {
  const int64_t chunk = chunk_of(problem);
  PieceSums total{};
  for (int64_t piece = 0; piece < pieces_of(problem); ++piece) {
    total.squares += sums[piece * chunk + t].squares;
    for (int64_t n = 0; n < outputs(problem); ++n) total.dots[n] += sums[piece * chunk + t].dots[n];
  }
  const float mean = static_cast<float>(total.squares / static_cast<double>(kStreams * problem.hidden));
  const float r = reciprocal_sqrt(mean + problem.norm_eps, problem.setting.numerics);
  float m[kMostOutputs];
  for (int64_t n = 0; n < outputs(problem); ++n) m[n] = static_cast<float>(total.dots[n]) * r;
  return coefficients_of(problem, args, m);
}

void write_coefficients(const Args& args, int64_t t, const Coefficients& c) {
  for (int64_t j = 0; j < kStreams; ++j) {
    args.post_out(t, j) = c.post[j];
    for (int64_t k = 0; k < kStreams; ++k) args.mix_out(t, j, k) = c.mix[j][k];
  }
}

void collapse(const cpu::Kernels& kernels, const Problem& problem, const Args& args, Columns columns,
              const Scratch& scratch) {
  for (int64_t t = 0; t < args.streams.extent[0]; ++t) {
    float* const x = scratch.piece.x;
    read_streams(kernels, problem, args, t, columns, x);
    kernels.combine_rows(scratch.coefficients[t].pre, kStreams, 1, 1, {x, kPiece, kStreams}, columns.count,
                         scratch.piece.inputs, kPiece);
    cpu::write_floats(kernels, scratch.piece.inputs, columns.first, columns.count, args.collapsed[t]);
  }
}

void run_chunk(const Problem& problem, const Args& args, const Lane& lane) {
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  const int64_t tokens = args.streams.extent[0], elements = tokens * kStreams * problem.hidden;
  const auto scratch_of = [&](int thread) {
    cpu::Cutter cutter(lane.workspace.data());
    return cut(problem, thread, lane.threads, cutter);
  };
  cpu::parallel_for(cpu::worth_splitting(lane, elements * outputs(problem)), pieces_of(problem),
                    [&](int64_t begin, int64_t end, int thread) {
                      const Scratch scratch = scratch_of(thread);
                      for (int64_t piece = begin; piece < end; ++piece)
                        sum_piece(kernels, problem, args, columns_of(problem, piece), scratch.piece,
                                  scratch.sums + piece * chunk_of(problem));
                    });
  cpu::parallel_for(cpu::worth_splitting(lane, tokens * 4000), tokens,
                    [&](int64_t begin, int64_t end, int thread) {
                      const Scratch scratch = scratch_of(thread);
                      for (int64_t t = begin; t < end; ++t) {
                        scratch.coefficients[t] = finish(problem, args, scratch.sums, t);
                        if (problem.kind == Kind::kLayer)
                          write_coefficients(args, t, scratch.coefficients[t]);
                      }
                    });
  cpu::parallel_for(cpu::worth_splitting(lane, elements), pieces_of(problem),
                    [&](int64_t begin, int64_t end, int thread) {
                      const Scratch scratch = scratch_of(thread);
                      for (int64_t piece = begin; piece < end; ++piece)
                        collapse(kernels, problem, args, columns_of(problem, piece), scratch);
                    });
}

// Tokens [first, first + count) of a tensor, if there is one.
template <class Tensor>
Tensor tokens_of(const Tensor& tensor, int64_t first, int64_t count) {
  return tensor ? tensor.slice(0, first, count) : tensor;
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  for (int64_t first = 0; first < args.streams.extent[0]; first += chunk_of(problem)) {
    const int64_t count = std::min(chunk_of(problem), args.streams.extent[0] - first);
    Args chunk = args;
    chunk.streams = tokens_of(args.streams, first, count);
    chunk.block = tokens_of(args.block, first, count);
    chunk.post = tokens_of(args.post, first, count);
    chunk.mix = tokens_of(args.mix, first, count);
    chunk.replaced = tokens_of(args.replaced, first, count);
    chunk.streams_out = tokens_of(args.streams_out, first, count);
    chunk.post_out = tokens_of(args.post_out, first, count);
    chunk.mix_out = tokens_of(args.mix_out, first, count);
    chunk.collapsed = tokens_of(args.collapsed, first, count);
    run_chunk(problem, chunk, lane);
  }
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::hyper_connection
