#pragma once
// What the experiments on the indexer's projection share (projection_error.h, gate_error.h): its operands, and
// catalog rows run on them.

#include <string>
#include <vector>

#include "bench/arena.h"
#include "bench/case.h"
#include "fulgurite/core/encode.h"
#include "fulgurite/core/error.h"

namespace fulgurite::bench {

// Of all elements of an output.
struct Deviation {
  double relative = 0.0;  // norm of the differences over that of the exact values
  double largest = 0.0;   // largest difference over the root mean square of the exact values
};
Deviation deviation(const Tensor<2>& made, const std::vector<double>& exact);

// A weight in one of the forms that prepare() makes, with its bytes.
struct Weight {
  EncodedMatrix bytes;
  PreparedMatrix matrix;
};
Weight made_weight(EncodedMatrix bytes, const MatrixFormat& format, int64_t out, int64_t in);

// Values of deviation 0.02, kept in `memory`.
MatrixValues drawn_values(std::vector<double>& memory, Random& random, int64_t out, int64_t in);

// bf16 as a norm makes them: deviation 1, channels of different magnitude, one in 256 of them 20 times as
// large.
Tensor<2> drawn_activations(Arena& arena, int64_t tokens, int64_t hidden);

struct Chosen {
  View<int32_t, 2> selected;
  View<float, 2> scores;
};

// By the first row of the catalog that takes it; its name.
template <class Problem, class Args>
const char* run_row(plan::Rows<Implementation<Problem, Args>> rows, const Problem& problem, const Args& args,
                    const Lane& lane) {
  for (const auto* const row : rows) {
    if (row->supports(problem)) continue;
    const HostBuffer workspace(row->workspace_bytes(problem, lane.threads));
    row->run(problem, args, {lane.threads, lane.workers, workspace.bytes()});
    return row->name;
  }
  fail(ErrorKind::kPlan, "{}: no implementation takes it", summary(problem.setting.numerics));
}

}  // namespace fulgurite::bench
