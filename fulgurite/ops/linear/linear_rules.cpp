// The rows of a GPU: what each takes, and the scales that it reads. What a rule does not name, it refuses. Of cuda_fp8
// there is no kernel.
//
//   cuda_hopper   cuda_fp8's path on sm90, and e8m0 scales: linear_cuda_hopper.h.
//   cuda_bf16_hopper  weights and activations of bf16 on sm90: cuda/bf16_product.h.
//   cuda_fp8      DeepSeek's fp8 tensor-core path: blocks of 128x128, bf16 in and out, N % 64, K % 128. On
//                 sm90 it reads fp32 scales as stored; on sm100 and sm120 the tensor core itself scales, by
//                 powers of two of both sides, which are handed packed.
//   cublaslt_fp8  cublasLtMatmul. On 9.0 (linear_cuda_cublaslt.cu) scales of 128x128 blocks (BLK128x128_32F,
//                 from CUDA 12.9 on) beside those of the activations' groups (VEC128_32F); rows of scales at multiples
//                 of four of them: others it reads as if they were; a scale of the tensor is handed as that of every
//                 block, since the activations have no single one. On 10.0, read and not run, without a kernel: e8m0
//                 scales of groups of 32 on both sides (VEC32_UE8M0), dimensions and pointers at multiples of
//                 16 bytes; results in bf16, fp16 or fp32.
//   cuda          everything that the definition covers, codes and scales as stored.
//
// Source     DeepGEMM csrc/apis/gemm.hpp and csrc/utils/layout.hpp; SGLang fp8_utils.py,
//            should_deepgemm_weight_requant_ue8m0. cuBLAS 13 documentation, cublasLtMatmul: fp8 kernels, and
//            the modes that it states for grouped matrices on 9.0 and 10.x; NVIDIA CUDALibrarySamples,
//            LtBlk128x128Fp8Matmul; PyTorch ScaledBlas.cpp (version 12.9, and the four of a row).

#include <algorithm>

#include "fulgurite/ops/linear/linear_cublaslt.h"
#include "fulgurite/ops/linear/linear_cuda_bf16_order.h"
#include "fulgurite/ops/linear/linear_cuda_hopper_order.h"
#include "fulgurite/ops/linear/linear_rules.h"

namespace fulgurite::linear {
namespace {

constexpr BlockShape kBlock{128, 128};
constexpr BlockShape kGroup{1, 32};
constexpr BlockShape kTensor{kWhole, kWhole};
constexpr int kCublaslt129 = 120900;  // cublasLtGetVersion of CUDA 12.9

// --- clauses ---

Support takes_architecture(const Problem& problem, std::initializer_list<int> allowed) {
  const Target& target = problem.setting.target;
  std::string list;
  for (const int sm : allowed) {
    if (target.kind == DeviceKind::kCuda && target.sm == sm) return std::nullopt;
    list += fmt::format("{}sm{}", list.empty() ? "" : " or ", sm);
  }
  return Refusal{fmt::format("target {}, takes {}", name(target), list)};
}

Support takes_multiples(const Problem& problem, int64_t of_out, int64_t of_in) {
  const auto clause = [](const char* extent, int64_t value, int64_t multiple) -> Support {
    if (value > 0 && value % multiple == 0) return std::nullopt;
    return Refusal{fmt::format("{} = {}, needs {} % {} == 0", extent, value, extent, multiple)};
  };
  return first_refusal({clause("N", problem.out, of_out), clause("K", problem.in, of_in)});
}

Support takes_blocks(const Problem& problem, std::initializer_list<BlockShape> allowed) {
  const MatrixFormat& weight = problem.weight;
  if (weight.form == MatrixForm::kE4M3Blocks && std::ranges::find(allowed, weight.block) != allowed.end())
    return std::nullopt;
  std::string list;
  for (const BlockShape& block : allowed)
    list += (list.empty() ? "" : " or ") +
            (block == kTensor ? "per tensor" : fmt::format("{}x{}", block.rows, block.columns));
  return Refusal{fmt::format("weight in {}, takes e4m3 {}", describe(weight), list)};
}

Support takes_scales(const Problem& problem, std::initializer_list<MatrixFormat> allowed) {
  std::string list;
  for (const MatrixFormat& format : allowed) {
    if (format == problem.weight) return std::nullopt;
    list += (list.empty() ? "" : " or ") + describe(format);
  }
  return Refusal{fmt::format("weight in {}, takes {}", describe(problem.weight), list)};
}

Support takes_output(const Problem& problem, std::initializer_list<Output> allowed, const char* list) {
  if (std::ranges::find(allowed, problem.output) != allowed.end()) return std::nullopt;
  const char* const found = problem.output == Output::kF32 ? "f32" : "unknown";
  return Refusal{fmt::format("output {}, takes {}", found, list)};
}

// What the fp8 linear asks of the knobs, on any tensor core.
Support takes_fp8(const Problem& problem, std::initializer_list<ActivationScale> scales) {
  const Numerics& n = problem.setting.numerics;
  return first_refusal({takes(n.activation_quant, {ActivationQuant::kE4m3}),
                        takes(n.activation_scale, scales), takes(n.scale_form, {ScaleForm::kMultiplied}),
                        takes(n.mma, {Mma::kExact})});
}

MatrixFormat blocks(BlockShape block, ScaleFormat scale, ScaleLayout layout = ScaleLayout::kRowMajor) {
  return {MatrixForm::kE4M3Blocks, block, scale, layout};
}

// --- cuda_fp8 ---

// Does the tensor core scale by itself, by powers of two?
bool scales_by_powers(const Problem& problem) { return problem.setting.target.sm >= 100; }

Support fp8_scales(const Problem& problem) {
  if (!scales_by_powers(problem))
    return first_refusal({takes_scales(problem, {blocks(kBlock, ScaleFormat::kF32)}),
                          takes_fp8(problem, {ActivationScale::kFp32, ActivationScale::kPow2})});
  return first_refusal(
      {takes_scales(problem, {blocks(kBlock, ScaleFormat::kF32), blocks(kBlock, ScaleFormat::kE8M0),
                              blocks(kBlock, ScaleFormat::kE8M0, ScaleLayout::kPacked)}),
       takes_fp8(problem, {ActivationScale::kPow2})});
}

Support fp8_shapes(const Problem& problem) {
  return first_refusal({takes_architecture(problem, {90, 100, 120}),
                        takes(problem.setting.numerics.activation, {Activation::kBf16}),
                        takes_output(problem, {Output::kActivation}, "bf16"), takes_blocks(problem, {kBlock}),
                        takes_multiples(problem, 64, 128)});
}

Support supports_fp8(const Problem& problem) {
  return first_refusal({fp8_shapes(problem), fp8_scales(problem)});
}

MatrixFormat reads_fp8(const Problem& problem) {
  if (!scales_by_powers(problem)) return problem.weight;
  return blocks(kBlock, ScaleFormat::kE8M0, ScaleLayout::kPacked);
}

// --- cuda_hopper ---

Support supports_hopper(const Problem& problem) {
  return first_refusal(
      {takes_sm(problem.setting.target, 90), fp8_shapes(problem),
       takes_scales(problem, {blocks(kBlock, ScaleFormat::kF32), blocks(kBlock, ScaleFormat::kE8M0)}),
       takes_fp8(problem, {ActivationScale::kFp32, ActivationScale::kPow2})});
}

int64_t workspace_of_hopper(const Problem& problem, int) {
  return hopper::workspace_bytes(problem.largest_batch, problem.in);
}

// As a row of Hopper sums it.
Problem stated(const Problem& problem, const SumOrder& order) {
  Problem by_row = problem;
  by_row.setting.numerics.mma = Mma::kHopper;
  by_row.order = order;
  return by_row;
}
Problem states_hopper(const Problem& problem) {
  return stated(problem, hopper::order_of(problem.in, problem.out));
}

std::string sums_hopper(const Problem& problem) {
  const int64_t parts = hopper::order_of(problem.in, problem.out).parts;
  if (parts == 1) return "products by wgmma, 128 columns at a time";
  return fmt::format("products by wgmma, 128 columns at a time; K in {} parts, added in order", parts);
}

// --- cuda_bf16_hopper ---

Support supports_bf16(const Problem& problem) {
  if (problem.weight.form != MatrixForm::kBF16)
    return Refusal{"weight in " + describe(problem.weight) + ", takes bf16"};
  return first_refusal({takes_sm(problem.setting.target, 90), takes_multiples(problem, 8, 8),
                        takes(problem.setting.numerics.activation, {Activation::kBf16}),
                        takes(problem.setting.numerics.mma, {Mma::kExact}),
                        takes_output(problem, {Output::kActivation, Output::kF32}, "bf16 or f32")});
}

Problem states_bf16(const Problem& problem) {
  return stated(problem, hopper::bf16_order_of(problem.in, problem.out));
}

std::string sums_bf16(const Problem& problem) {
  const SumOrder order = hopper::bf16_order_of(problem.in, problem.out);
  if (order.parts == 1) return "products by wgmma of bf16";
  return fmt::format("products by wgmma of bf16; K in {} parts of {}, added in order", order.parts,
                     order.step);
}

// --- cublaslt_fp8 ---

Support takes_library(const Problem& problem) {
  const int version = problem.setting.target.cuda.cublaslt;
  if (version >= kCublaslt129) return std::nullopt;
  if (version == 0) return Refusal{"no cuBLASLt is known (none without a device), needs 12.9"};
  return Refusal{fmt::format("cuBLASLt {}.{}, needs 12.9", version / 10000, version / 100 % 100)};
}

Support takes_rows_of_four(const Problem& problem) {
  const int64_t scales = (problem.in + 127) / 128;
  if (scales % 4 == 0) return std::nullopt;
  return Refusal{fmt::format("K = {} has {} scales a row, takes multiples of 4", problem.in, scales)};
}

Support cublaslt_scales(const Problem& problem) {
  const int sm = problem.setting.target.sm;
  if (sm == 90)
    return first_refusal(
        {takes_blocks(problem, {kBlock, kTensor}),
         takes_scales(problem, {blocks(kBlock, ScaleFormat::kF32), blocks(kTensor, ScaleFormat::kF32)}),
         takes_fp8(problem, {ActivationScale::kFp32, ActivationScale::kPow2})});
  return first_refusal({takes_blocks(problem, {kGroup}),
                        takes_scales(problem, {blocks(kGroup, ScaleFormat::kE8M0),
                                               blocks(kGroup, ScaleFormat::kE8M0, ScaleLayout::kTiles)}),
                        takes_fp8(problem, {ActivationScale::kPow2})});
}

// What has run: bf16 in and out, whole groups.
Support supports_cublaslt_on_hopper(const Problem& problem) {
  const Support refusal =
      first_refusal({takes(problem.setting.numerics.activation, {Activation::kBf16}),
                     takes_output(problem, {Output::kActivation}, "bf16"), cublaslt_scales(problem),
                     takes_multiples(problem, 16, 128), takes_rows_of_four(problem), takes_library(problem)});
#if defined(FULGURITE_HOPPER)
  if (!refusal && !choose_cublaslt(problem))
    return Refusal{"cuBLASLt has no algorithm without sums in memory"};
#endif
  return refusal;
}

Support supports_cublaslt(const Problem& problem) {
  if (problem.setting.target.sm == 90) return supports_cublaslt_on_hopper(problem);
#if defined(FULGURITE_HOPPER)
  if (problem.setting.target.sm == 100) return Refusal{"this build has no kernel of it for sm100"};
#endif
  return first_refusal(
      {takes_architecture(problem, {90, 100}),
       takes(problem.setting.numerics.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}),
       takes_output(problem, {Output::kActivation, Output::kF32}, "bf16, fp16 or f32"),
       cublaslt_scales(problem), takes_multiples(problem, 16, 16), takes_library(problem)});
}

MatrixFormat reads_cublaslt(const Problem& problem) {
  if (problem.weight.block == kTensor) return blocks(kBlock, ScaleFormat::kF32);
  if (problem.weight.block == kGroup) return blocks(kGroup, ScaleFormat::kE8M0, ScaleLayout::kTiles);
  return problem.weight;
}

// Not documented, and seen to be so of cuBLASLt 13.1 on an H100 (docs/gpu_linear.md).
Problem states_cublaslt(const Problem& problem) {
  Problem stated = problem;
  if (problem.setting.target.sm == 90) stated.setting.numerics.mma = Mma::kHopper;
  return stated;
}

std::string sums_cublaslt(const Problem& problem) {
  if (problem.setting.target.sm != 90) return "";
  return "products by wgmma, 128 columns at a time, as cuBLASLt 13.1 was seen to add";
}

int64_t workspace_of_cublaslt(const Problem& problem, int) { return cublaslt::workspace_of(problem).bytes; }

// --- cuda ---

// What the definition covers, whatever the activations are stored as.
Support is_defined(Problem problem) {
  problem.setting.numerics.activation = Activation::kFp32;
  return first_refusal({takes(problem.setting.numerics.mma, {Mma::kExact}), kReference.supports(problem)});
}

// A form that there is: kinds of scales that belong to it, and blocks that are some.
Support takes_known_form(const Problem& problem) {
  const auto& [form, block, scale, layout] = problem.weight;
  const bool plain = form == MatrixForm::kF32 || form == MatrixForm::kBF16;
  const bool scaled =
      block.rows > 0 && block.columns > 0 &&
      ((form == MatrixForm::kE4M3Blocks && (scale == ScaleFormat::kF32 || scale == ScaleFormat::kE8M0)) ||
       (form == MatrixForm::kMxfp4 && scale == ScaleFormat::kE8M0) ||
       (form == MatrixForm::kNvfp4 && scale == ScaleFormat::kE4M3));
  if (plain || scaled) return std::nullopt;
  return Refusal{"weight in a form that is unknown"};
}

Support takes_stored_layout(const Problem& problem) {
  if (problem.weight.layout == ScaleLayout::kRowMajor) return std::nullopt;
  return Refusal{"weight in " + describe(problem.weight) + ", reads scales as stored"};
}

}  // namespace

Support supports_generic(const Problem& problem) {
  const Support refusal = first_refusal(
      {takes_architecture(problem, {80, 90, 100, 120}),
       takes(problem.setting.numerics.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}),
       takes_output(problem, {Output::kActivation, Output::kF32}, "any"), takes_known_form(problem),
       takes_stored_layout(problem)});
  return refusal ? refusal : is_defined(problem);  // which is asked of known forms alone
}

const Implementation kCudaHopper{
    "cuda_hopper",     supports_hopper, workspace_of_hopper, FULGURITE_KERNEL(run_hopper),
    DeviceKind::kCuda, nullptr,         states_hopper,       sums_hopper};
const Implementation kCudaBf16{
    "cuda_bf16_hopper", supports_bf16, no_workspace<Problem>, FULGURITE_KERNEL(run_bf16),
    DeviceKind::kCuda,  nullptr,       states_bf16,           sums_bf16};
const Implementation kCudaFp8{"cuda_fp8", supports_fp8,      no_workspace<Problem>,
                              nullptr,    DeviceKind::kCuda, reads_fp8};
const Implementation kCublasltFp8{
    "cublaslt_fp8",    supports_cublaslt, workspace_of_cublaslt, FULGURITE_KERNEL(run_cublaslt),
    DeviceKind::kCuda, reads_cublaslt,    states_cublaslt,       sums_cublaslt};

}  // namespace fulgurite::linear
