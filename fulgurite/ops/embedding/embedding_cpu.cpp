#include <algorithm>

#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/ops/embedding/embedding.h"

namespace fulgurite::embedding {
namespace {

Support supports(const Problem& problem) { return kReference.supports(problem); }

void copy_row(const cpu::Kernels& kernels, const PreparedMatrix& table, int64_t id, float* out) {
  if (const auto* f32 = std::get_if<View<const float, 2>>(&table.as)) {
    std::copy_n((*f32)[id].data, table.in, out);
  } else {
    const View<const bf16, 1> row = std::get<View<const bf16, 2>>(table.as)[id];
    kernels.decode_bf16(reinterpret_cast<const uint16_t*>(row.data), table.in, out);
  }
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const View<float, 2> out = args.out.as<float>();
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  cpu::parallel_for(lane, out.extent[0], [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) copy_row(kernels, *args.table, args.ids(t), out[t].data);
  });
}

}  // namespace

const Implementation kCpu{"cpu", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::embedding
