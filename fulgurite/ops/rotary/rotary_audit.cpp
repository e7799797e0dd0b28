#include "fulgurite/ops/rotary/rotary_audit.h"

#include "fulgurite/audit/tensors.h"

namespace fulgurite::rotary {

// Every implementation makes the reference's roundings: nothing may differ.
audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  const audit::OwnedTensor<3> expected = audit::copy_of(ConstTensor<3>(args.x));
  Args reference = args;
  reference.x = expected.view();
  kReference.run(problem, reference, {});
  row.run(problem, args, lane);
  const std::vector<float> values = audit::values(expected.view());
  return {{{"x", audit::compare(audit::values(args.x), values, std::vector<double>(values.size(), 0.0))}}};
}

}  // namespace fulgurite::rotary
