#pragma once
// Inputs for the operations' tests and benchmarks: seeded, and hard on purpose. A buffer owns its elements;
// its view is what an operation gets. (Tests and benchmarks only; no operation includes this.)

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/matrix.h"
#include "fulgurite/core/random.h"

namespace fulgurite::inputs {

// What the values look like.
enum class Values {
  kNormal,      // N(0, 1)
  kOutliers,    // N(0, 1), one in 64 times 1000
  kDenormal,    // around 1e-40, with zeros of both signs
  kConstant,    // all equal: ties
  kCancelling,  // pairs of large values of opposite sign
};
inline constexpr Values kAllValues[] = {Values::kNormal, Values::kOutliers, Values::kDenormal,
                                        Values::kConstant, Values::kCancelling};
std::string name(Values values);

template <int Rank>
struct Buffer {
  std::vector<float> elements;
  View<float, Rank> view;
};

Buffer<1> make(Random& random, Values values, int64_t n);
Buffer<2> make(Random& random, Values values, int64_t rows, int64_t columns);
Buffer<3> make(Random& random, Values values, int64_t a, int64_t b, int64_t c);

// A prepared weight that owns its bytes. Blocks may be partial; their scales differ block by block, powers of
// two or not.
enum class Scales { kPow2, kAny };
struct Weight {
  PreparedMatrix matrix;
  std::shared_ptr<std::vector<std::byte>> data;
  std::shared_ptr<std::vector<float>> scales;
};
Weight make_weight(Random& random, int64_t out, int64_t in, const MatrixFormat& format,
                   Scales scales = Scales::kAny);

// The formats that a test of a weight-reading operation runs over.
std::vector<MatrixFormat> all_formats();

}  // namespace fulgurite::inputs
