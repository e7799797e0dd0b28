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

// `count` distinct of [0, range), ascending.
std::vector<int32_t> distinct(uint64_t seed, int count, int range);

void check(bool small);
void check_same();
void time_decode(const std::string& only);
void time_parts();
void time_prefill();
void run_one(const std::string& name);

}  // namespace fulgurite::sparse_attention::probe
