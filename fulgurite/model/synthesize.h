#pragma once
// A checkpoint with the real dimensions of a config.json and fewer layers: seeded weights of realistic scale,
// for measuring and testing where the real file is too large. Stored as the official DeepSeek-V3.2 file is:
// linears in e4m3 with fp32 block scales (powers of two where scale_fmt is ue8m0; BF16 without
// quantization_config), other matrices BF16, vectors F32; DeepSeek-V4 as its own file is: e8m0 scales, routed
// experts in MXFP4, BF16 norms, tables of distinct experts. No tokenizer.
//
// Every element is a function of (seed, name of its tensor, index) alone: the same seed gives the same bytes,
// whatever the number of threads, layers or shards.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/checkpoint/writer.h"
#include "fulgurite/core/workers.h"
#include "fulgurite/model/config.h"

namespace fulgurite::model {

struct SynthesisOptions {
  int64_t layers = 1;
  // The first so many; none: min(first_k_dense_replace, layers - 1).
  std::optional<int64_t> dense_layers = std::nullopt;
  uint64_t seed = 0;
  int64_t shard_bytes = 4'000'000'000;  // at most, where a tensor is not larger
};

// What fills a tensor. Matrices are N(0, deviation^2).
enum class Fill {
  kCodes,   // e4m3, the largest of a block near 448
  kScales,  // of blocks: what makes the codes N(0, deviation^2)
  kPairs,   // e2m1, two a byte, the largest of a group near 6
  kPairScales,
  kTable,   // of each row distinct numbers below `experts`
  kNormal,  // around mean
};
struct SyntheticTensor {
  checkpoint::PlannedTensor tensor;
  Fill fill = Fill::kNormal;
  double mean = 0.0;
  double deviation = 1.0;
  int64_t bytes = 0;
  int64_t experts = 0;
};

struct Synthesis {
  std::string config_text;  // config.json
  uint64_t seed = 0;
  bool pow2_scales = false;
  std::vector<std::vector<SyntheticTensor>> shards;
  int64_t bytes = 0;  // of all tensors
};

// `what` names the text in messages. Throws Error{kConfig, kModel, kRequest}.
Synthesis plan_synthesis(std::string_view config_json, const std::string& what,
                         const SynthesisOptions& options);

// Writes it into `directory`, which is made or must be empty; throws Error{kFile} before it makes anything
// where the file system has no room, and where another run writes into the directory. `workers` (none: the
// caller alone) make the bytes; progress() is told how many of plan.bytes are written, and may throw.
// Whatever throws, nothing that this run made is left. config.json comes last: without it a directory is no
// checkpoint.
void write_synthesis(const Synthesis& plan, const std::filesystem::path& directory, Workers* workers,
                     const std::function<void(int64_t bytes)>& progress);

}  // namespace fulgurite::model
