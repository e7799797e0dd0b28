#pragma once
// A checkpoint written anew in another form of the same model.
//
//   bf16           every linear in BF16
//   fp8            e4m3 in blocks (those of the source, else 128x128), fp32 scales in .weight_scale_inv
//   fp8-e8m0       the same with e8m0 scales in .scale
//   fp8-channel    e4m3, an fp32 scale an output channel in .weight_scale
//   gate-fp8       fp8, weights_proj too
//   fused-bf16     fp8, wk and weights_proj in one BF16 wk_weights_proj
//   fused-fp8      fp8, wk and weights_proj in one e4m3 wk_weights_proj
//   mxfp4-experts  fp8, routed experts in MXFP4 (I8 codes, e8m0 .scale)
//   nvfp4-experts  fp8, routed experts in NVFP4 (U8 codes, e4m3 .weight_scale, fp32 .weight_scale_2)
//
// Of DeepSeek-V4 gate-fp8, mxfp4-experts and nvfp4-experts have e8m0 scales in .scale beside the experts, as its
// own files do; it has no wk that could be fused, and experts in one tensor are not converted.
// Codes and scales that fit the form are copied. Scales are kept where they can be (fp32 <-> e8m0, exactly);
// otherwise a weight is quantized again from its exact values (core/encode.h), to powers of two where the
// source says scale_fmt "ue8m0" or the form is e8m0. Norms, embedding, head and router stay as they are
// stored. MTP tensors are converted alike. Every weight that is encoded anew is decoded again from what is
// written, and its error reported.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/checkpoint/checkpoint.h"
#include "fulgurite/core/encoding_error.h"

namespace fulgurite::model {

enum class CheckpointForm {
  kBF16,
  kFp8,
  kFp8E8M0,
  kFp8Channel,
  kGateFp8,
  kFusedBF16,
  kFusedFp8,
  kMxfp4Experts,
  kNvfp4Experts,
};
std::vector<std::string_view> form_names();
std::optional<CheckpointForm> form_from_name(std::string_view name);

struct ConvertOptions {
  CheckpointForm form = CheckpointForm::kBF16;
  int64_t shard_bytes = int64_t{5'000'000'000};
  // Called after each tensor.
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;
};
// A weight that was encoded anew, and what that cost.
struct Requantized {
  std::string name;
  std::string from, to;  // "e4m3 128x128, scales f32"
  EncodingError error;
};
struct ConvertResult {
  int64_t bytes = 0;
  int64_t tensors = 0;
  int64_t shards = 0;
  int64_t copied_bytes = 0;              // as they stood in the source
  std::vector<Requantized> requantized;  // in the order of the computation
};

// Writes `out`, whole or not at all (checkpoint_writer.h), with the tokenizer's files. Holds one tensor in
// memory at a time. Throws Error.
ConvertResult convert(const checkpoint::Checkpoint& source, const std::filesystem::path& out,
                      const ConvertOptions& options);

}  // namespace fulgurite::model
