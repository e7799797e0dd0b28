#include "fulgurite/ops/query_prepare/query_prepare_audit.h"

#include <cmath>

#include "fulgurite/audit/tensors.h"
#include "fulgurite/ops/norm/norm_audit.h"

namespace fulgurite::query_prepare {
namespace {

// The farthest that a possible r takes each element from the reference's.
struct Bounds {
  std::vector<double> normed, q;
};

std::vector<float> head_of(const ConstTensor<3>& q, int64_t t, int64_t h) {
  std::vector<float> head;
  for (int64_t i = 0; i < q.extent[2]; ++i) head.push_back(load(q, t, h, i));
  return head;
}

void allow(const std::vector<float>& possible, const std::vector<float>& expected, size_t first,
           std::vector<double>& bounds) {
  for (size_t i = 0; i < possible.size(); ++i)
    bounds[first + i] = std::fmax(bounds[first + i], std::abs(static_cast<double>(possible[i]) -
                                                              static_cast<double>(expected[first + i])));
}

Bounds bounds_of(const Problem& problem, const Args& args, const std::vector<float>& normed,
                 const std::vector<float>& q) {
  Bounds bounds{std::vector<double>(q.size(), 0.0), std::vector<double>(q.size(), 0.0)};
  size_t first = 0;
  audit::for_each_index<2>({args.q.extent[0], problem.heads}, [&](int64_t t, int64_t h) {
    const std::vector<float> head = head_of(args.q, t, h);
    const int64_t p = args.places(t).position;
    for (const float r : norm::possible_roots({problem.setting, problem.head_dim, problem.eps}, head)) {
      std::vector<float> possible;
      for (const float value : head) possible.push_back(round_to(args.q.dtype, value * r));
      allow(possible, normed, first, bounds.normed);
      rotary::rotate(rotary::Layout::kInterleaved, args.table.cosine[p].data, args.table.sine[p].data,
                     problem.rope, possible.data() + problem.head_dim - problem.rope);
      for (float& value : possible) value = round_to(args.q.dtype, value);
      allow(possible, q, first, bounds.q);
    }
    first += head.size();
  });
  return bounds;
}

}  // namespace

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  const audit::OwnedTensor<3> q = audit::copy_of(ConstTensor<3>(args.q));
  const audit::OwnedTensor<3> normed(DType::kF32, args.q.extent);
  Args reference = args;
  reference.q = q.view();
  reference.normed = normed.view().as<float>();
  kReference.run(problem, reference, {});
  const std::vector<float> expected = audit::values(q.view()), before = audit::values(normed.view());
  const Bounds bounds = bounds_of(problem, args, before, expected);  // before `row` writes over its input
  row.run(problem, args, lane);

  audit::OpReport report;
  if (args.normed)
    report.outputs.push_back(
        {"normed", audit::compare(audit::values(ConstTensor<3>(args.normed)), before, bounds.normed)});
  report.outputs.push_back({"q", audit::compare(audit::values(args.q), expected, bounds.q)});
  return report;
}

}  // namespace fulgurite::query_prepare
