// Both kernels of the choice, over chunks of query rows.

#include <algorithm>

#include "fulgurite/cuda/check.h"
#include "fulgurite/ops/index_select/index_select.h"
#include "fulgurite/ops/index_select/index_select_cuda.h"
#include "fulgurite/ops/index_select/index_select_rules.h"

namespace fulgurite::index_select {
namespace {

constexpr int64_t kRowsOfLaunch = 2048;  // of the logits kernel
constexpr int64_t kChunkStep = 64;       // rows that every form of it takes together
// Logits of fewer bytes are discarded in more time than writing them to memory takes; of more, L2 has written most before.
constexpr int64_t kDiscardFrom = int64_t{8} << 20, kDiscardTo = int64_t{40} << 20;

int64_t chunk_rows(int64_t rows, int64_t context, int64_t bytes) {
  int64_t chunk = std::min({rows, kRowsOfLaunch, std::max<int64_t>(bytes / row_bytes(context), 1)});
  if (chunk < rows && chunk > kChunkStep) chunk -= chunk % kChunkStep;
  return chunk;
}

__global__ void hide_kernel(const __grid_constant__ LogitsParams p, int64_t context) {
  const auto tokens = static_cast<uint32_t>(p.places[blockIdx.x].position + 1);
  float* row = p.logits + blockIdx.x * p.logits_stride;
  for (int64_t s = tokens / static_cast<uint32_t>(p.ratio) + threadIdx.x; s < context; s += blockDim.x)
    row[s] = __int_as_float(static_cast<int>(0xFF800000u));
}

cudaError_t copy_scores(const LogitsParams& logits, int64_t context, float* scores, cudaStream_t stream) {
  if (const cudaError_t error = launch_hide(logits, context, stream); error != cudaSuccess) return error;
  const size_t row = static_cast<size_t>(context) * sizeof(float);
  return cudaMemcpy2DAsync(scores, row, logits.logits,
                           static_cast<size_t>(logits.logits_stride) * sizeof(float), row,
                           static_cast<size_t>(logits.rows), cudaMemcpyDefault, stream);
}

}  // namespace

cudaError_t launch_hide(const LogitsParams& p, int64_t context, cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  hide_kernel<<<static_cast<unsigned>(p.rows), 256, 0, stream>>>(p, context);
  return cudaGetLastError();
}

int64_t select_workspace_bytes(int64_t rows, int64_t context, int64_t budget) {
  return rows == 0 ? 0 : chunk_rows(rows, context, budget) * row_bytes(context);
}

cudaError_t launch_select(const SelectParams& params, cudaStream_t stream) {
  const int64_t rows = params.logits.rows, context = params.top_k.context;
  if (rows == 0) return cudaSuccess;
  const int64_t chunk = chunk_rows(rows, context, params.workspace_bytes);
  if (chunk * row_bytes(context) > params.workspace_bytes) return cudaErrorInvalidValue;
  for (int64_t first = 0; first < rows; first += chunk) {
    const auto count = static_cast<int32_t>(std::min(chunk, rows - first));
    LogitsParams logits = params.logits;
    if (logits.q != nullptr) logits.q += first * logits.heads * 128;
    if (logits.wide_q != nullptr) logits.wide_q += first * logits.heads * 128;
    logits.weights += first * logits.heads;
    logits.places += first;
    logits.rows = count;
    logits.logits = static_cast<float*>(params.workspace);
    logits.logits_stride = row_bytes(context) / 4;
    logits.skip_visible = params.scores == nullptr ? params.top_k.topk : 0;
    if (const cudaError_t error = launch_logits(logits, stream); error != cudaSuccess) return error;
    if (params.scores != nullptr) {
      const cudaError_t error = copy_scores(logits, context, params.scores + first * context, stream);
      if (error != cudaSuccess) return error;
    }
    TopKParams top_k = params.top_k;
    top_k.logits = logits.logits;
    top_k.logits_stride = logits.logits_stride;
    top_k.discard_from = kDiscardFrom;
    top_k.discard_to = kDiscardTo;
    top_k.places = logits.places;
    top_k.selected += first * top_k.selected_stride;
    if (top_k.slots != nullptr) top_k.slots += first * top_k.selected_stride;
    top_k.page_table = logits.page_table;
    top_k.table_stride = logits.table_stride;
    top_k.rows = count;
    top_k.ratio = logits.ratio;
    if (const cudaError_t error = launch_top_k(top_k, stream); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

// --- the row of the catalog ---

namespace {

// Rows of a batch that are likely one sequence's.
int32_t rows_together(const Problem& problem, int64_t rows) {
  return static_cast<int32_t>(std::clamp<int64_t>(rows / problem.sequences, 1, 8));
}

void require_contiguous(const Args& args) {
  const View<float, 3> dense(nullptr, args.q.extent);
  const ConstTensor<3>& keys = args.key_cache.keys;
  FULGURITE_ASSERT(args.q.stride == dense.stride && args.weights.stride[0] == args.weights.extent[1] &&
                       (keys.dtype == DType::kBF16 || keys.stride[0] == kCudaPageBytes) &&
                       args.selected.stride[0] == args.selected.extent[1],
                   "index_select: queries, weights, pages and selections lie without gaps");
}

void set_operands(const Args& args, LogitsParams& logits) {
  const ConstTensor<3>& keys = args.key_cache.keys;
  if (keys.dtype == DType::kBF16) {
    logits.wide_q = reinterpret_cast<const uint16_t*>(args.q.data);
    logits.wide_keys = reinterpret_cast<const uint16_t*>(keys.data);
    logits.sequence_stride = keys.stride[0];
    logits.key_stride = keys.stride[1];
    logits.context = keys.extent[1];
    return;
  }
  logits.q = reinterpret_cast<const uint8_t*>(args.q.data);
  logits.pages = reinterpret_cast<const uint8_t*>(keys.data);
  logits.pool_pages = keys.extent[0];
  logits.page_table = args.key_cache.pages.table.data;
  logits.table_stride = args.key_cache.pages.table.stride[0];
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  require_contiguous(args);
  SelectParams params;
  LogitsParams& logits = params.logits;
  set_operands(args, logits);
  logits.weights = args.weights.data;
  logits.places = args.places.data;
  logits.rows = static_cast<int32_t>(args.q.extent[0]);
  logits.heads = static_cast<int32_t>(problem.heads);
  logits.ratio = static_cast<int32_t>(problem.ratio);
  logits.rows_together = rows_together(problem, args.q.extent[0]);
  logits.ctas = problem.setting.target.multiprocessors;
  params.top_k.ctas = 2 * problem.setting.target.multiprocessors;  // of which two fit one
  params.top_k.selected = args.selected.data;
  params.top_k.selected_stride = args.selected.stride[0];
  params.top_k.slots = args.slots.data;
  params.top_k.topk = static_cast<int32_t>(problem.topk);
  params.top_k.context = problem.context;
  logits.launch = params.top_k.launch = lane.waits ? Launch::kPlain : Launch::kProgrammatic;
  params.workspace = lane.workspace.data();
  params.workspace_bytes = workspace_bytes_hopper(problem);
  params.scores = args.scores.data;
  cuda::check(launch_select(params, static_cast<cudaStream_t>(lane.stream)), "index_select");
  cuda::launched(lane);
}

}  // namespace fulgurite::index_select
