#pragma once
// What the readers of config.json share: bounds, keys that have one value, and the parts that every family
// writes in the same way. For config.cpp and config_v4.cpp alone.

#include <cstdint>
#include <string_view>
#include <vector>

#include "fulgurite/core/json.h"
#include "fulgurite/model/config.h"

namespace fulgurite::model {

// Bounds beyond which a number is a mistake, not a model: each leaves room of 8 or more above the largest
// that is known.
inline constexpr int64_t kMostLayers = 1024;
inline constexpr int64_t kWidest = 1 << 18;
inline constexpr int64_t kMostHeads = 4096;
inline constexpr int64_t kMostExperts = 1 << 14;
inline constexpr int64_t kMostExpertsInAll = 1 << 20;
inline constexpr int64_t kLargestVocabulary = 1 << 24;
inline constexpr int64_t kLongestContext = 1 << 26;

// A key that may be left out, but that has one value if it is there.
void only_text(const Fields& fields, std::string_view key, std::string_view value);
void only_boolean(const Fields& fields, std::string_view key, bool value);
void only_integer(const Fields& fields, std::string_view key, int64_t value);
// Keys that would change the mathematics and are not implemented.
void refuse_keys(const Fields& fields, const std::vector<const char*>& keys);

void read_common_dimensions(const Fields& fields, Config& config);  // to heads and q_lora
void read_indexer(const Fields& fields, Config& config);
void read_experts(const Fields& fields, Config& config);  // all but their groups

// type, factor, original_max_position_embeddings, beta_fast and beta_slow; mscale_all_dim is left alone.
Yarn read_yarn_ramp(const Fields& scaling);

// --- DeepSeek-V4 (config_v4.cpp) ---

// Everything but quantization and special tokens.
void read_v4(const Fields& fields, Config& config);

}  // namespace fulgurite::model
