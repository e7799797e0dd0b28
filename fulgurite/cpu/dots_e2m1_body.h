// Dot products of rows of e2m1, part of kernels_body.h, after dots_body.h, whose quads they make: of a block of 32
// columns four rows' codes become bf16 in fp4 order, and each block's sums are promoted. No #pragma once: it is
// a body.

#include <cstdint>
#include <cstring>

namespace {

using fulgurite::cpu::E2m1Rows;

constexpr int64_t kFp4Block = 32;                      // columns
constexpr int64_t kFp4Blocks = kDotGroup / kFp4Block;  // of a group
constexpr int64_t kFp4Shifts = 4, kFp4Words = 8;       // codes of a 16-bit word; words of a block
constexpr int64_t kQuadBlock = kQuad * kFp4Block;

// bf16, the table of e2m1.
constexpr uint16_t kE2m1[16] = {0x0000, 0x3F00, 0x3F80, 0x3FC0, 0x4000, 0x4040, 0x4080, 0x40C0,
                                0x8000, 0xBF00, 0xBF80, 0xBFC0, 0xC000, 0xC040, 0xC080, 0xC0C0};

// The codes of a block: eight words' `shift`s one after the other, `step` elements apart.
inline void widen_block(const uint8_t* pairs, int64_t step, uint16_t* out) {
  for (int64_t i = 0; i < kFp4Words; ++i) {
    const uint32_t word = pairs[2 * i] | static_cast<uint32_t>(pairs[2 * i + 1]) << 8;
    for (int64_t s = 0; s < kFp4Shifts; ++s) out[step * s + i] = kE2m1[(word >> (4 * s)) & 15u];
  }
}

void widen_e2m1(const uint8_t* pairs, int64_t blocks, uint16_t* out) {
  for (int64_t b = 0; b < blocks; ++b) widen_block(pairs + b * kFp4Block / 2, kFp4Words, out + b * kFp4Block);
}

inline const uint8_t* scales_of(const E2m1Rows& w, int64_t j) {
  return w.scales + (j < w.count ? j : w.count - 1) * w.scale_stride;
}

// 2^(byte - 127), 255 being NaN.
inline float power_of(uint8_t byte) {
  const uint32_t usual = static_cast<uint32_t>(byte) << 23;
  return same_bits<float>(byte == 0 ? 0x00400000u : byte == 255 ? 0x7FC00000u : usual);
}

// One group of four rows: [blocks][shifts][rows][words], and the scale of each lane of each block.
struct Fp4Quad {
  alignas(64) uint16_t values[kQuadGroup];
  alignas(64) float scales[kFp4Blocks * kLanes];

  void pack(const E2m1Rows& w, int64_t j, int64_t g) {
    const WeightRows rows{w.base, w.stride, w.count};
    for (int64_t l = 0; l < kQuad; ++l) {
      const uint8_t* const codes = row_of(rows, j + l) + g * kDotGroup / 2;
      for (int64_t b = 0; b < kFp4Blocks; ++b) {
        widen_block(codes + b * kFp4Block / 2, kQuadBlock / kFp4Shifts,
                    values + b * kQuadBlock + l * kFp4Words);
        scale(w, scales_of(w, j + l), g * kFp4Blocks + b, scales + b * kLanes + l * kQuad);
      }
    }
  }

  // Of a row's block: four lanes, of which two have the columns of each half.
  static void scale(const E2m1Rows& w, const uint8_t* scales, int64_t block, float* lanes) {
    float halves[2];
    if (w.halves)
      decode_e4m3(scales + 2 * block, 2, w.global, halves);
    else
      halves[0] = halves[1] = power_of(scales[block]);
    for (int64_t lane = 0; lane < kQuad; ++lane) lanes[lane] = halves[lane / 2];
  }
};

template <int R>
inline void dots_e2m1_tile(const GroupedRows& x, int64_t i, const Fp4Quad& quad, int64_t j, int64_t g,
                           const QuarterSums& c) {
  const uint16_t* const left = x.base + g * x.group_stride + i * x.row_stride;
  for (int64_t lane = 0; lane < kLanes; lane += kWidth) {
    float* const base = c.base + 16 * (j / kQuad * c.stride + i) + lane;
    for (int64_t b = 0; b < kFp4Blocks; ++b) {
      Floats sum[R] = {};
      for (int64_t k = b * kFp4Block; k < (b + 1) * kFp4Block; k += kQuadStep) {
        const PairParts weight = pairs_at(quad.values + k * kQuad + 2 * lane);
        for (int r = 0; r < R; ++r) {
          const PairParts row = everywhere(left + r * x.row_stride + k);
          sum[r] = add_product(row.second, weight.second, sum[r]);
          sum[r] = add_product(row.first, weight.first, sum[r]);
        }
      }
      const Floats scale = load(quad.scales + b * kLanes + lane);
      for (int r = 0; r < R; ++r) {
        const Floats factor = scale * c.x_factors[g * x.count + i + r];
        store(base + 16 * r, fused(sum[r], factor, load(base + 16 * r)));
      }
    }
  }
}

void dots_e2m1(const GroupedRows& x, const E2m1Rows& w, int64_t groups, const QuarterSums& c) {
  Fp4Quad quad;
  for (int64_t j = 0; j < w.count; j += kQuad) {
    for (int64_t g = 0; g < groups; ++g) {
      quad.pack(w, j, g);
      int64_t i = 0;
      for (; i + 4 <= x.count; i += 4) dots_e2m1_tile<4>(x, i, quad, j, g, c);
      for (; i < x.count; ++i) dots_e2m1_tile<1>(x, i, quad, j, g, c);
    }
  }
}

}  // namespace
