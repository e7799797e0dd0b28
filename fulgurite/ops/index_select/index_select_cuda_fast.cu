// Both kernels of the choice, over chunks of query rows.

#include <algorithm>

#include "fulgurite/ops/index_select/index_select_cuda.h"

namespace fulgurite::index_select {
namespace {

constexpr int64_t kRowsOfLaunch = 2048;  // of the logits kernel
constexpr int64_t kChunkStep = 64;       // rows that every form of it takes together

int64_t row_bytes(int64_t context) { return (context + 3) / 4 * 16; }

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
    logits.q += first * logits.heads * 128;
    logits.weights += first * logits.heads;
    logits.places += first;
    logits.rows = count;
    logits.logits = static_cast<float*>(params.workspace);
    logits.logits_stride = row_bytes(context) / 4;
    logits.skip_visible = params.top_k.topk;
    if (const cudaError_t error = launch_logits(logits, stream); error != cudaSuccess) return error;
    TopKParams top_k = params.top_k;
    top_k.logits = logits.logits;
    top_k.logits_stride = logits.logits_stride;
    top_k.places = logits.places;
    top_k.selected += first * top_k.selected_stride;
    top_k.page_table = logits.page_table;
    top_k.table_stride = logits.table_stride;
    top_k.rows = count;
    top_k.ratio = logits.ratio;
    if (const cudaError_t error = launch_top_k(top_k, stream); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace fulgurite::index_select
