// Eight neighbours a thread.

#include "fulgurite/cuda/eight.h"
#include "fulgurite/cuda/fast.h"
#include "fulgurite/ops/embedding/embedding_rules.h"

namespace fulgurite::embedding {
namespace {

constexpr unsigned kThreads = 128;

template <class Stored, class T>  // uint16_t: bf16, or float
__global__ void gather(const int32_t* ids, const Stored* table, int64_t table_stride, T* out,
                       int64_t out_stride, int width) {
  cuda::release_successor();
  const int first = static_cast<int>(blockIdx.y * kThreads + threadIdx.x) * 8;
  cuda::wait_for_predecessor();
  if (first >= width) return;
  cuda::Eight values;
  cuda::read(values, table + __ldcg(ids + blockIdx.x) * table_stride + first);
  cuda::write(values, out + blockIdx.x * out_stride + first);
}

template <class T, class Stored>
void launch(const Args& args, const View<Stored, 2>& table, const Lane& lane) {
  using Bits = std::conditional_t<sizeof(Stored) == 2, uint16_t, float>;
  const auto tokens = static_cast<unsigned>(args.ids.extent[0]),
             width = static_cast<unsigned>(args.out.extent[1]);
  cuda::launch(lane, {{tokens, (width / 8 + kThreads - 1) / kThreads}, kThreads}, gather<Bits, T>,
               args.ids.data, reinterpret_cast<const Bits*>(table.data), table.stride[0],
               reinterpret_cast<T*>(args.out.data), args.out.stride[0], static_cast<int>(width));
}

template <class Stored>
void run_with(const Problem& problem, const Args& args, const View<Stored, 2>& table, const Lane& lane) {
  const bool wide = args.out.dtype == DType::kF32;
  cuda::require_aligned(cuda::is_aligned(table.data, sizeof(Stored), table.stride[0]) &&
                            cuda::is_aligned(args.out.data, wide ? 4 : 2, args.out.stride[0]),
                        "embedding");
  wide ? launch<float>(args, table, lane) : launch<uint16_t>(args, table, lane);
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  if (args.ids.extent[0] == 0 || problem.hidden == 0) return;
  if (const auto* table = std::get_if<View<const float, 2>>(&args.table->as))
    run_with(problem, args, *table, lane);
  else
    run_with(problem, args, std::get<View<const bf16, 2>>(args.table->as), lane);
}

}  // namespace fulgurite::embedding
