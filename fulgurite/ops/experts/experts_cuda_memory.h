#pragma once
// What the kernels of the experts on Hopper hand one another, in the workspace.
//
//   part      experts that share a width and a format, the shared one last where it has both; else it is a part
//   row       one token through one expert: token * slots + j, then `routed + token` through the shared one
//   entry     up to eight rows of one expert, which share its weights
//   operand   a row's activations as the upper words of doubles, whose lower words are 0: codes (times 2^1014)
//             or bf16; in blocks of 16 n columns, of which column 4n t + 4q + j stands at 16q + 4t + j, as lane
//             t of four multiplies them (n: columns_of_lane / 4). For weights of fp4: blocks of 32 words, for 32
//             columns; digit d (experts_cuda_forms.h) of columns 8t + 4q .. 8t + 4q + 3 stands at 8t + 2d + q

#include "fulgurite/cuda/generic.h"
#include "fulgurite/ops/experts/experts.h"

namespace fulgurite::experts {

inline constexpr int64_t kChunkTokens = 512;  // of a pass
inline constexpr int kMostExperts = 512;      // of a part
inline constexpr int kEntryRows = 8;
inline constexpr int kColumnsPadding = 256;  // operands end in zeros

struct Entry {
  int expert, count;                         // 0: none
  int rows[kEntryRows], tokens[kEntryRows];  // beyond count: the last again
};

struct Operand {
  uint32_t* words = nullptr;  // [rows, columns]
  float* scales = nullptr;    // [rows, groups of 128]; NaN where the group holds a NaN or infinity
  int columns = 0, groups = 0;
};

// What the kernels of a part read and write.
struct PartRows {
  int experts = 0, slots = 0, tokens = 0;
  int routed = 0, rows = 0;  // tokens * slots; with the shared one's
  Entry* entries = nullptr;  // [most_entries]
  int most_entries = 0;
  View<const int32_t, 2> expert_ids;
  View<const float, 2> expert_weights;

  FULGURITE_HOST_DEVICE int token_of(int row) const { return row < routed ? row / slots : row - routed; }
  FULGURITE_HOST_DEVICE float weight_of(int row) const {
    return row < routed ? expert_weights(row / slots, row % slots) : 1.0f;
  }
};

enum class Weights { kFp8, kFp4, kBf16 };
FULGURITE_HOST_DEVICE constexpr int columns_of_lane(Weights weights) {
  return weights == Weights::kFp8 ? 16 : 8;
}

// The routed experts and the shared one are a part: they share width and format.
bool is_one_part(const Problem& problem);

struct PartMemory {
  PartRows rows;
  Weights weights;
  int64_t width;
  Operand x, hidden_operand;
  uint16_t *hidden, *y;
};

struct Memory {
  PartMemory routed, shared;  // shared: where it is a part of its own
};

Memory memory_of(const Problem& problem, int64_t tokens, cuda::Scratch& scratch);

}  // namespace fulgurite::experts
