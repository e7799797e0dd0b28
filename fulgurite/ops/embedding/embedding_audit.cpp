#include "fulgurite/ops/embedding/embedding_audit.h"

#include "fulgurite/audit/tensors.h"

namespace fulgurite::embedding {

// A copy, or one rounding: nothing may differ.
audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  const audit::OwnedTensor<2> expected(args.out.dtype, args.out.extent);
  Args reference = args;
  reference.out = expected.view();
  kReference.run(problem, reference, {});
  row.run(problem, args, lane);
  const std::vector<double> bound(static_cast<size_t>(args.out.extent[0] * args.out.extent[1]), 0.0);
  return {{{"out", audit::compare(audit::values(args.out), audit::values(expected.view()), bound)}}};
}

}  // namespace fulgurite::embedding
