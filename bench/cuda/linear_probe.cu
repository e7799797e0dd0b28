// Holds the fp8 linear and the absorption's products against the library's references, bit for bit, and times
// them.
//   probe check [fast] | probe v4 (scales of e8m0, products of bf16, rows) | probe time_v4 [many] | probe time | probe many (prefill) | probe heads | probe small (for memory checkers)
// Times are of CUDA graphs of many calls whose weights are others each time (more than 240 MB of them), so they
// come from memory; a time includes the edges between its kernels.
//
// Built by ./dev probes.

#include "bench/cuda/linear_probe.h"

#include "fulgurite/ops/linear/linear_cuda_bf16_order.h"

namespace fulgurite::probe {

linear::hopper::Params linear_params(const uint16_t* x, const uint8_t* weight, const float* scale,
                                     uint16_t* y, void* workspace, int tokens, int in, int out) {
  linear::hopper::Params params;
  params.x = x;
  params.x_stride = params.weight_stride = in;
  params.weight = weight;
  params.scale = scale;
  params.scale_stride = (in + 127) / 128;
  params.y = y;
  params.y_stride = out;
  params.workspace = workspace;
  params.tokens = tokens;
  params.in = in;
  params.out = out;
  return params;
}

head_projection::hopper::Params head_params(bool from_rows, int rows, const uint16_t* x,
                                            const uint16_t* weight, uint16_t* y, int tokens, int heads,
                                            int latent) {
  const int in = from_rows ? rows : latent, out = from_rows ? latent : rows;
  head_projection::hopper::Params params;
  params.direction = from_rows ? head_projection::Direction::kFromRows : head_projection::Direction::kToRows;
  params.x = x;
  params.x_token_stride = int64_t{heads} * in;
  params.x_head_stride = in;
  params.weight = weight;
  params.weight_stride = latent;
  params.y = y;
  params.y_token_stride = int64_t{heads} * out;
  params.y_head_stride = out;
  params.tokens = tokens;
  params.heads = heads;
  params.rows_per_head = rows == 128 ? 256 : 448;
  params.first_row = from_rows ? 0 : params.rows_per_head - rows;
  params.rows = rows;
  params.latent = latent;
  return params;
}

cuda::Bf16Product product_of(const uint16_t* x, const uint16_t* weight, void* y, int tokens, int in,
                             int out) {
  cuda::Bf16Product product;
  product.x = x;
  product.weight = weight;
  product.x_stride = product.weight_stride = in;
  product.y = y;
  product.y_stride = out;
  product.tokens = tokens;
  product.in = in;
  product.out = out;
  const SumOrder order = linear::hopper::bf16_order_of(in, out);
  product.parts = static_cast<int>(order.parts);
  return product;
}

cuda::Bf16Product groups_of(cuda::Bf16Product product, int groups) {
  product.groups = groups;
  product.parts = 1;
  product.x_stride = int64_t{groups} * product.in;
  product.x_group_stride = product.in;
  product.weight_group_stride = int64_t{product.out} * product.in;
  product.y_stride = int64_t{groups} * product.out;
  product.y_group_stride = product.out;
  return product;
}

cuda::CodedProduct coded_of(const uint16_t* x, const uint8_t* codes, const uint8_t* exponents, uint16_t* y,
                            int tokens, int groups, int rows, int in) {
  cuda::CodedProduct product;
  product.x = x;
  product.x_stride = int64_t{groups} * in;
  product.x_group_stride = in;
  product.codes = codes;
  product.codes_stride = in;
  product.exponents = exponents;
  product.exponents_stride = in / 128;
  product.y = y;
  product.y_stride = int64_t{groups} * rows;
  product.y_group_stride = rows;
  product.tokens = tokens;
  product.groups = groups;
  product.in = in;
  product.out = product.rows_per_group = rows;
  return product;
}

}  // namespace fulgurite::probe

int main(int count, char** words) {
  using namespace fulgurite::probe;
  const std::string what = count > 1 ? words[1] : "check";
  const bool fast = count > 2;
  if (what == "check") check_linears(fast), check_heads(fast);
  if (what == "v4") check_powers(), check_products(), check_codes(), check_rows();
  if (what == "time_v4") time_v4(fast);
  if (what == "small") run_small(), run_small_products(), run_small_codes();
  if (what == "small_v4") run_small_products(), run_small_codes();
  if (what == "time") time_linears(false);
  if (what == "many") time_linears(true);
  if (what == "heads") time_heads();
  report_checks("all");
  return failed() != 0;
}
