#pragma once
// What the CPU implementations share: tokens of a sequence form blocks, whose tiles of keys are made ready
// once; the work, counted in tiles times tokens, is cut into one part a thread, of equal size wherever the
// tokens stand; a block that a cut runs through is chosen from the candidates of its parts. An
// implementation says how a tile of keys is scored. Nothing of this changes a score or a choice.

#include <cstddef>

#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/index_select/index_select.h"

namespace fulgurite::index_select {

constexpr int64_t kTileKeys = 128;  // panels and products stay in the caches of a core

struct Call {
  const Problem& problem;
  const Args& args;
  const cpu::Kernels& kernels;
};

// A tile: at most kTileKeys consecutive keys.
struct Keys {
  int64_t sequence;
  int64_t first;
  int64_t count;
};

// How a tile is scored, in scratch memory that one part of the work has.
struct Scoring {
  int64_t (*scratch_bytes)(const Problem& problem, int64_t block_tokens);
  // The token's query, to be number `slot` of its block.
  void (*take_query)(const Call& call, int64_t token, int64_t slot, std::byte* scratch);
  void (*take_keys)(const Call& call, const Keys& keys, std::byte* scratch);
  // The scores of the first `count` of the keys that were taken last; there is room for kTileKeys.
  void (*score)(const Call& call, int64_t token, int64_t slot, const Keys& keys, int64_t count,
                std::byte* scratch, float* scores);
};

// Tokens of one sequence that meet a tile while it is in the cache.
int64_t block_tokens(const Problem& problem);

int64_t workspace_bytes(const Scoring& scoring, const Problem& problem, int threads);
void select(const Scoring& scoring, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::index_select
