#pragma once
// What the parts of linear_probe share.

#include "bench/cuda/linear_probe_reference.h"
#include "bench/cuda/probe_kit.h"
#include "fulgurite/cuda/bf16_product.h"
#include "fulgurite/cuda/coded_product.h"
#include "fulgurite/ops/head_projection/head_projection_cuda_hopper.h"
#include "fulgurite/ops/linear/linear_cuda_hopper.h"

namespace fulgurite::probe {

using Tokens = std::vector<int>;
inline constexpr int kGuard = 3;  // rows behind the last, and columns, that stay as they were
inline const Tokens kAll = {1, 2, 8, 9, 16, 17, 32, 33, 63, 64, 65, 127, 129, 300, 512};

linear::hopper::Params linear_params(const uint16_t* x, const uint8_t* weight, const float* scale,
                                     uint16_t* y, void* workspace, int tokens, int in, int out);
// Heads of kv_b, 128 rows of each matrix, or what the second says.
head_projection::hopper::Params head_params(bool from_rows, int rows, const uint16_t* x,
                                            const uint16_t* weight, uint16_t* y, int tokens, int heads,
                                            int latent);

// One group, in the linear's order of K.
cuda::Bf16Product product_of(const uint16_t* x, const uint16_t* weight, void* y, int tokens, int in, int out);
// Groups of its own rows, one accumulation along K.
cuda::Bf16Product groups_of(cuda::Bf16Product product, int groups);
cuda::CodedProduct coded_of(const uint16_t* x, const uint8_t* codes, const uint8_t* exponents, uint16_t* y,
                            int tokens, int groups, int rows, int in);
template <class Product>
void launch(const Product& product) {
  MUST(cuda::launch_product(product, nullptr));
  MUST(cudaDeviceSynchronize());
}

// Denormals, NaN, infinities, zeros of both signs and large values in rows of their own.
void spoil(std::vector<uint16_t>& x, int64_t stride, int in, int tokens);

void check_linears(bool fast);
void check_powers();
void check_products();
void check_codes();
void run_small_codes();
void check_rows();
void run_small_products();
void time_v4(bool many);
void check_heads(bool fast);
void run_small();
void time_linears(bool many);
void time_heads();

}  // namespace fulgurite::probe
