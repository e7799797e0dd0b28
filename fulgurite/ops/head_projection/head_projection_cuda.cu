#include "fulgurite/core/element.h"
#include "fulgurite/cuda/generic.h"
#include "fulgurite/cuda/matrix.h"
#include "fulgurite/ops/head_projection/head_projection.h"

namespace fulgurite::head_projection {
namespace {

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

// Index: an output.
struct Project {
  Problem problem;
  Args args;
  cuda::Matrix weight;
  WeightReading reading;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const bool from_rows = problem.direction == Direction::kFromRows;
    const int64_t outputs = args.y.extent[2], inputs = args.x.extent[2];
    const int64_t n = index % outputs, h = index / outputs % problem.heads;
    const int64_t t = index / outputs / problem.heads;
    const int64_t first = h * problem.rows_per_head + problem.first_row;
    double sum = 0.0;
    for (int64_t i = 0; i < inputs; ++i) {
      const int64_t row = from_rows ? first + i : first + n, column = from_rows ? n : i;
      sum += static_cast<double>(load(args.x, t, h, i)) * weight.read(reading, row, column);
    }
    store(args.y, static_cast<float>(sum), t, h, n);
  }
};

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t outputs = args.y.extent[0] * problem.heads * args.y.extent[2];
  cuda::for_each(lane, outputs, Project{problem, args, cuda::Matrix(*args.weight), reading_of(problem)});
}

}  // namespace

const Implementation kCuda{"cuda", supports, no_workspace<Problem>, run, DeviceKind::kCuda};

}  // namespace fulgurite::head_projection
