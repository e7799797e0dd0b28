#include "fulgurite/core/element.h"
#include "fulgurite/ops/embedding/embedding.h"

namespace fulgurite::embedding {
namespace {

Support supports(const Problem& problem) {
  if (has_scales(problem.table)) return Refusal{"table = " + describe(problem.table) + ", takes f32 or bf16"};
  return takes(problem.setting.numerics.activation,
               {Activation::kFp32, Activation::kBf16, Activation::kFp16});
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  for (int64_t t = 0; t < args.out.extent[0]; ++t)
    for (int64_t i = 0; i < problem.hidden; ++i)
      store(args.out, static_cast<float>(exact_element(*args.table, args.ids(t), i)), t, i);
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::embedding
