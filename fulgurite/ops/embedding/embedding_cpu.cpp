// Rows are copied where table and activation have one type, else widened or rounded on the way.

#include <cstring>

#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/ops/embedding/embedding.h"

namespace fulgurite::embedding {
namespace {

Support supports(const Problem& problem) { return kReference.supports(problem); }

ConstTensor<1> row_of(const PreparedMatrix& table, int64_t id) {
  if (const auto* f32 = std::get_if<View<const float, 2>>(&table.as)) return (*f32)[id];
  return std::get<View<const bf16, 2>>(table.as)[id];
}

void copy_row(const cpu::Kernels& kernels, const ConstTensor<1>& from, const Tensor<1>& to) {
  if (from.dtype == to.dtype) {
    std::memcpy(to.data, from.data, static_cast<size_t>(from.extent[0] * from.element_bytes()));
    return;
  }
  float buffer[cpu::kRowTile];
  cpu::for_each_tile(from.extent[0], [&](int64_t first, int64_t count) {
    cpu::write_floats(kernels, cpu::as_floats(kernels, from, first, count, buffer), first, count, to);
  });
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t tokens = args.out.extent[0];
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  cpu::parallel_for(cpu::worth_splitting(lane, tokens * problem.hidden), tokens,
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t t = begin; t < end; ++t)
                        copy_row(kernels, row_of(*args.table, args.ids(t)), args.out[t]);
                    });
}

}  // namespace

const Implementation kCpu{"cpu", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::embedding
