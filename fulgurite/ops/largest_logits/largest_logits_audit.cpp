#include "fulgurite/ops/largest_logits/largest_logits_audit.h"

#include <vector>

namespace fulgurite::largest_logits {
namespace {

// The outputs of one run.
struct Outputs {
  std::vector<int32_t> ids, numbers;
  std::vector<float> values;
  std::vector<double> totals;
};

Args redirected(const Args& args, Outputs& out) {
  const int64_t rows = args.ids.extent[0], count = args.ids.extent[1];
  out.ids.resize(static_cast<size_t>(rows * count));
  out.values.resize(out.ids.size());
  out.totals.resize(static_cast<size_t>(rows));
  out.numbers.resize(static_cast<size_t>(rows));
  Args other = args;
  other.ids = {out.ids.data(), {rows, count}};
  other.values = {out.values.data(), {rows, count}};
  other.totals = {out.totals.data(), {rows}};
  other.numbers = {out.numbers.data(), {rows}};
  return other;
}

// What must be equal. Ids and counts are exact in fp32 up to 2^24.
class Equal {
 public:
  void add(double actual, double expected) {
    actual_.push_back(static_cast<float>(actual));
    expected_.push_back(static_cast<float>(expected));
  }
  audit::Difference difference() const {
    return audit::compare(actual_, expected_, std::vector<double>(actual_.size(), 0.0));
  }

 private:
  std::vector<float> actual_, expected_;
};

// The difference relative to the total, which fp32 would hide.
audit::Difference totals_of(const Args& actual, const Args& expected) {
  std::vector<float> relative;
  std::vector<double> bound;
  for (int64_t row = 0; row < expected.totals.extent[0]; ++row) {
    const double total = expected.totals(row), off = actual.totals(row) - total;
    relative.push_back(static_cast<float>(total == 0.0 ? off : off / total));
    bound.push_back(total == 0.0 ? 0.0 : weight_slack(expected.numbers(row)));
  }
  return audit::compare(relative, std::vector<float>(relative.size(), 0.0f), bound);
}

}  // namespace

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  Outputs outputs;
  const Args expected = redirected(args, outputs);
  kReference.run(problem, expected, {});
  row.run(problem, args, lane);
  Equal ids, values, numbers;
  for (int64_t r = 0; r < args.ids.extent[0]; ++r) {
    numbers.add(args.numbers(r), expected.numbers(r));
    for (int64_t i = 0; i < args.ids.extent[1]; ++i) {
      ids.add(args.ids(r, i), expected.ids(r, i));
      values.add(args.values(r, i), expected.values(r, i));
    }
  }
  return {{{"ids", ids.difference()},
           {"values", values.difference()},
           {"totals", totals_of(args, expected)},
           {"numbers", numbers.difference()}}};
}

}  // namespace fulgurite::largest_logits
