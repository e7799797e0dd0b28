#pragma once
// What the parts of sparse_attention_probe share.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/cuda/probe_kit.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_cuda.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_rules.h"

namespace fulgurite::sparse_attention::probe {

using namespace fulgurite::probe;
using fulgurite::probe::Device;  // not the core's

inline uint64_t mix(uint64_t i) {
  i = (i + 0x9E3779B97F4A7C15ull) * 0xBF58476D1CE4E5B9ull;
  i = (i ^ i >> 27) * 0x94D049BB133111EBull;
  return i ^ i >> 31;
}

// `count` distinct of [0, range), ascending.
std::vector<int32_t> distinct(uint64_t seed, int count, int range);

void check(bool small);
void check_same();
void time_decode(const std::string& only);
void time_parts();
void time_prefill();
void run_one(const std::string& name);

}  // namespace fulgurite::sparse_attention::probe
