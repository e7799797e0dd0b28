#pragma once
// The lightning indexer's choice on Hopper (sm_90a): two kernels, logits and their top k, over chunks of query
// rows whose logits fit a workspace. index_quant = fp8 with the q scales folded into the weights.
//
//   q          [rows, heads, 128]       e4m3; heads 8, 16, 32, 64
//   weights    [rows, heads]            f32
//   places     [rows]                   (sequence, position): the row sees (position + 1) / ratio tokens
//   pages      [pool_pages, 8448]       bytes: 64 tokens x 128 e4m3 codes, then 64 f32 scales
//   page_table [sequences, table_stride] i32: where a sequence's page lies in the pool; only visible pages are read
//   logits     [rows, logits_stride]    f32 workspace: only visible elements are written; stride % 4 == 0
//   selected   [rows, selected_stride]  i32: positions s
//   slots      [rows, selected_stride]  i32, or null: page_table[s / 64] * 64 + s % 64
//
// Rounding   dot(h) = one wgmma accumulation of 128 from zero (core/tensor_core.h). The head sum is four fp32
//            sums: part p takes the heads with (h / 2) % 4 == p, ascending, acc = fma(weight, max(0, dot), acc)
//            from +0; then (p0 + p1) + (p2 + p3) (SumOrder: parts 4, step 2, pairwise); then one product with
//            the key's scale (bf16: none, and dot(h) is one accumulation by mma.sync). max(0, NaN) is NaN. The same for every kernel below, so logits do not depend on
//            the path, the batch, the grid or the order of pages.
// Choice     exact: larger first, NaN below -infinity, -0 equal to +0, ties to the lower position; ascending; then -1.
// Atomics    integer counts alone, whose sums do not depend on their order.

#include <cuda_runtime.h>

#include <cstdint>

#include "fulgurite/core/token_place.h"

namespace fulgurite::index_select {

constexpr int kCudaPageTokens = 64;
constexpr int64_t kCudaPageBytes = kCudaPageTokens * (128 + 4);

// kProgrammatic: may start while its predecessor in the stream ends; then that one must not write places, page_table.
enum class Launch { kPlain, kProgrammatic };

struct LogitsParams {
  const uint8_t* q = nullptr;
  const float* weights = nullptr;
  const TokenPlace* places = nullptr;
  const uint8_t* pages = nullptr;
  int64_t pool_pages = 0;
  const int32_t* page_table = nullptr;
  int64_t table_stride = 0;
  float* logits = nullptr;
  int64_t logits_stride = 0;
  int32_t rows = 0;
  int32_t heads = 0;
  int32_t ratio = 1;
  // Rows that see no more than this need no logits (top k takes all they see). 0: every row's are written.
  int32_t skip_visible = 0;
  // Consecutive rows of one sequence, as far as the caller knows; speed alone depends on it.
  int32_t rows_together = 1;
  int32_t ctas = 132;
  // In the place of q and pages: bf16 operands (index_quant = fp4 or none), a sequence's keys together.
  const uint16_t* wide_q = nullptr;     // [rows, heads, 128]
  const uint16_t* wide_keys = nullptr;  // [sequences, context, 128], rows 8-byte aligned
  int64_t sequence_stride = 0, key_stride = 0;
  int64_t context = 0;
  int32_t pages_in_flight = 0;  // of a CTA, 4 .. 12; 0: a good number. Speed alone depends on it
  Launch launch = Launch::kPlain;
};
cudaError_t launch_logits(const LogitsParams& params, cudaStream_t stream);
cudaError_t launch_wide_logits(const LogitsParams& params, cudaStream_t stream);  // of bf16: what it calls

// The contract's `scores`: -infinity where a row (of logits, skip_visible = 0) does not see, up to `context`.
cudaError_t launch_hide(const LogitsParams& params, int64_t context, cudaStream_t stream);

struct TopKParams {
  const float* logits = nullptr;
  int64_t logits_stride = 0;
  // Where rows times what a row sees are so many bytes, its logits are undefined afterwards: L2 need not write them to memory.
  int64_t discard_from = 0, discard_to = 0;
  const TokenPlace* places = nullptr;
  int32_t* selected = nullptr;
  int64_t selected_stride = 0;
  const int32_t* page_table = nullptr;  // with slots
  int64_t table_stride = 0;
  int32_t* slots = nullptr;
  int32_t rows = 0;
  int32_t topk = 0;
  int32_t ratio = 1;
  int64_t context = 0;  // the most that a row may see
  int32_t ctas = 0;     // 0: as many as there are rows for
  int32_t cluster = 0;  // CTAs that share a row: 1, 2, 4, 8, 16; 0: chosen from rows and context
  Launch launch = Launch::kPlain;
};
cudaError_t launch_top_k(const TopKParams& params, cudaStream_t stream);

// Both, in chunks of rows whose logits fit `workspace`.
struct SelectParams {
  LogitsParams logits;  // .logits, .logits_stride: set here
  TopKParams top_k;     // .rows and what both have: set here
  void* workspace = nullptr;
  int64_t workspace_bytes = 0;
  float* scores = nullptr;  // [rows, context], or null: every logit, and -infinity where a row does not see
};
// Bytes that let `rows` rows of `context` be chosen in chunks of at most `budget` bytes, or of one row.
int64_t select_workspace_bytes(int64_t rows, int64_t context, int64_t budget);
cudaError_t launch_select(const SelectParams& params, cudaStream_t stream);

}  // namespace fulgurite::index_select
