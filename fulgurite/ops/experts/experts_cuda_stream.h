#pragma once
// How a block multiplies rows of weights by up to eight operands. Each warp takes a tile of 16 rows, whose
// bytes come in stages through its part of shared memory (cp.async); the operands come along, once for all
// warps. Four lanes share a row, each with neighbours in it.

#include "fulgurite/cuda/mma_double.h"
#include "fulgurite/cuda/mma_sync.h"
#include "fulgurite/ops/experts/experts_cuda_forms.h"

namespace fulgurite::experts {

inline constexpr int kBlocksOfProcessor = 4;  // at once: how many registers there may be
inline constexpr int kWarps = 4, kStages = 3, kStageBytes = 128, kTileRows = 16,
                     kWeightBytes = kWarps * kTileRows * kStageBytes;

// Of a block of columns, and of a stage.
template <class Form>
struct Sizes {
  static constexpr int kBlockBytes = 4 * Form::kUnit, kBlockColumns = 4 * Form::kColumns;
  static constexpr int kBlocks = kStageBytes / kBlockBytes, kColumns = kBlocks * kBlockColumns;
  static constexpr int kOperandBytes = kColumns * 4;  // of a row
  static constexpr int kGroups = Form::kBlocksOfGroup == 0 ? 1 : kBlocks / Form::kBlocksOfGroup;
  static constexpr int kGroupColumns = kColumns / kGroups,
                       kOperandGroups = kColumns > 128 ? kColumns / 128 : 1;
  static_assert(kBlocks % 2 == 0 && kStages * (kWeightBytes + kEntryRows * kOperandBytes) <=
                                        48 << 10);  // which needs no attribute
};

template <class Form>
FULGURITE_HOST_DEVICE int stage_bytes(int most_rows) {
  return kWeightBytes + static_cast<int>(cuda::least(most_rows, kEntryRows)) * Sizes<Form>::kOperandBytes;
}

// 16 bytes, or zeros.
__device__ inline void copy_16(std::byte* to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(there ? 16 : 0)
               : "memory");
}

// A warp's tile: eight rows of the first matrix, then eight of the second.
struct Tile {
  MatrixAt matrix[2];
  int first[2];
};

template <class Form>
class Stream {
  static constexpr bool kIntegers =
      std::is_same_v<Form, Fp4Form>;  // sums are of bytes, by the integers' matrix instruction
  using Size = Sizes<Form>;
  using Scale = typename Form::Scale;

 public:
  __device__ Stream(std::byte* shared, int most_rows, const MatrixShape& shape, const Tile& tile,
                    const Operand& operand, int count, const int* operand_rows)
      : shared_(shared), stage_bytes_(stage_bytes<Form>(most_rows)), count_(count) {
    const int g = lane() / 4, t = lane() % 4,
              n = min(g, count - 1);  // columns beyond: copies, which nobody reads
    stages_ = (shape.columns + Size::kColumns - 1) / Size::kColumns;
    bytes_ = shape.columns * Form::kUnit / Form::kColumns;
    groups_ = (shape.columns + Size::kGroupColumns - 1) / Size::kGroupColumns;
    scale_step_ = shape.scale_step;
    four_rows_ = 4 * shape.row_bytes;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t first = tile.first[i];
      weights_[i] = tile.matrix[i].data + (first + lane() / 8) * shape.row_bytes + lane() % 8 * 16;
      operands_[i] =
          operand.words + int64_t{operand_rows[warp() + kWarps * i]} * operand.columns + lane() * 4;
      operand_scales_[i] = operand.scales + int64_t{operand_rows[2 * t + i]} * operand.groups;
      weight_scales_[i] = reinterpret_cast<const Scale*>(tile.matrix[i].scales) +
                          static_cast<int>(first + g) / shape.block_rows * shape.scale_stride;
      read_operand_[i] = kWeightBytes + n * Size::kOperandBytes +
                         (kIntegers ? ((2 * t + i) ^ (n & 1)) * 16 : t * 16 + (i == 0 ? 64 : -64) * (n & 1));
    }
    wide_scales_ = groups_ % Size::kGroups == 0 && (reinterpret_cast<uintptr_t>(weight_scales_[0]) |
                                                    reinterpret_cast<uintptr_t>(weight_scales_[1])) %
                                                           sizeof(uint2) ==
                                                       0;
  }

  // sums[i]: row g (i < 2) and g + 8 of the tile, times operands 2t + i % 2 of the entry.
  __device__ void sum(float (&sums)[4]) {
    double partial[2][4] = {};
    Scales next = scales_of(0);
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) load(s);
    for (int s = 0; s < stages_; ++s) {
      const Scales scales = next;
      next = scales_of(s + 1);
      asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
      __syncthreads();  // all copies have come, and all warps are done with the stage before
      load(s + kStages - 1);
      if constexpr (kIntegers)
        multiply_codes(s, scales, sums);
      else
        multiply(s, partial, scales, sums);
    }
    if constexpr (Form::kBlocksOfGroup == 0) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] = static_cast<float>(__dadd_rn(partial[0][i], partial[1][i]));
    }
    if constexpr (!kIntegers) spoil_rows_of_nan(sums);  // fp4 has no NaN
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32; }
  __device__ std::byte* stage(int s) const { return shared_ + s % kStages * stage_bytes_; }
  // Units of 16 bytes change places, so that lanes that read together meet different banks.
  __device__ static int swizzled(int row, int unit) {
    return unit ^ (row & Form::kSwizzle) * (8 / (Form::kSwizzle + 1));
  }
  // --- copies ---

  __device__ void load(int s) {
    if (s < stages_) {
      std::byte* const to = stage(s);
      const int unit = lane() % 8, at = s * kStageBytes;
      const bool there = at + unit * 16 < bytes_;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = 4 * i + lane() / 8;
        copy_16(to + (warp() * kTileRows + row) * kStageBytes + swizzled(row, unit) * 16,
                weights_[i / 2] + i % 2 * four_rows_ + (there ? at : 0), there);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (warp() + kWarps * i < count_)
          load_operand(to + kWeightBytes, warp() + kWarps * i, operands_[i], s);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  // `from`: this lane's unit.
  __device__ void load_operand(std::byte* to, int n, const uint32_t* from, int s) {
    constexpr int kUnits = Size::kOperandBytes / 16;
#pragma unroll
    for (int first = 0; first < kUnits; first += 32)
      if (kUnits % 32 == 0 || first + lane() < kUnits)
        copy_16(to + n * Size::kOperandBytes + (first + (lane() ^ (n & 1) * (kIntegers ? 1 : 4))) * 16,
                from + s * Size::kColumns + first * 4, true);
  }

  // --- scales, a stage ahead ---

  struct Scales {
    Scale weight[2][Size::kGroups];
    float operand[2][Size::kOperandGroups];
  };
  __device__ Scales scales_of(int s) const {
    Scales scales{};
    if constexpr (Form::kBlocksOfGroup > 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        read_scales(scales.weight[i], weight_scales_[i], s);
#pragma unroll
        for (int k = 0; k < Size::kOperandGroups; ++k)
          scales.operand[i][k] = __ldcg(operand_scales_[i] + min(s * Size::kOperandGroups + k,
                                                                 (groups_ * Size::kGroupColumns - 1) / 128));
      }
    }
    return scales;
  }
  // Eight bytes at once, where they lie so.
  __device__ void read_scales(Scale (&scales)[Size::kGroups], const Scale* from, int s) const {
    if constexpr (kIntegers) {
      if (wide_scales_) {
        const uint2 raw = __ldg(reinterpret_cast<const uint2*>(from + min(s, stages_ - 1) * Size::kGroups));
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          scales[k] = static_cast<uint8_t>(raw.x >> 8 * k);
          scales[4 + k] = static_cast<uint8_t>(raw.y >> 8 * k);
        }
        return;
      }
    }
#pragma unroll
    for (int k = 0; k < Size::kGroups; ++k)
      scales[k] = __ldg(from + min(s * Size::kGroups + k, groups_ - 1) * scale_step_);
  }
  __device__ static float value_of(float scale) { return scale; }
  __device__ static float value_of(uint8_t scale) { return cuda::e8m0_to_float(scale); }

  // --- products ---

  using Words = uint32_t[Form::kUnit / 4];
  __device__ static void read_weights(Words& words, const std::byte* tile, int row, int block) {
    const int offset = block * Size::kBlockBytes + lane() % 4 * Form::kUnit;
    const std::byte* const at = tile + row * kStageBytes + swizzled(row, offset / 16) * 16 + offset % 16;
    if constexpr (Form::kUnit == 16) {
      const uint4 four = *reinterpret_cast<const uint4*>(at);
      words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
    } else {
      words[0] = *reinterpret_cast<const uint32_t*>(at);
    }
  }
  __device__ void read_operand(double (&b)[4], const std::byte* stage, int block, int q) const {
    const uint4 four = *reinterpret_cast<const uint4*>(stage + read_operand_[q % 2] + q * 64 +
                                                       block * Size::kBlockColumns * 4);
    b[0] = __hiloint2double(static_cast<int>(four.x), 0);
    b[1] = __hiloint2double(static_cast<int>(four.y), 0);
    b[2] = __hiloint2double(static_cast<int>(four.z), 0);
    b[3] = __hiloint2double(static_cast<int>(four.w), 0);
  }

  // Two blocks of columns at a time, each into a sum of its own.
  __device__ void multiply(int s, double (&partial)[2][4], const Scales& scales, float (&sums)[4]) {
    const std::byte *const from = stage(s), *const tile = from + warp() * kTileRows * kStageBytes;
    const int g = lane() / 4;
#pragma unroll
    for (int block = 0; block < Size::kBlocks; block += 2) {
      Words words[2][2];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        read_weights(words[i / 2][i % 2], tile, g + i % 2 * 8, block + i / 2);
        Form::note_nan(words[i / 2][i % 2], noted_[i % 2]);
      }
#pragma unroll
      for (int q = 0; q < Form::kColumns / 4; ++q) {
        double a[2][8], b[2][4];
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          read_operand(b[c], from, block + c, q);
#pragma unroll
          for (int i = 0; i < 8; ++i) a[c][i] = Form::value(words[c][i % 2], 4 * q + i / 2);
        }
        cuda::mma_double(partial[0], a[0], b[0]);
        cuda::mma_double(partial[1], a[1], b[1]);
      }
      promote(block, partial, scales, sums);
    }
  }

  // A block is a group: its products sum exactly in 27 bits, digit by digit of the operand.
  __device__ void multiply_codes(int s, const Scales& scales, float (&sums)[4]) {
    const std::byte *const from = stage(s), *const tile = from + warp() * kTileRows * kStageBytes;
    const int g = lane() / 4;
#pragma unroll
    for (int block = 0; block < Size::kBlocks; ++block) {
      Words words[2];
      uint32_t a[4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        read_weights(words[i], tile, g + 8 * i, block);
        Form::widen(words[i][0], a[i], a[i + 2]);
      }
      const std::byte* const operand = from + block * Size::kBlockColumns * 4;
      const uint4 low = *reinterpret_cast<const uint4*>(operand + read_operand_[0]);
      const uint2 high = *reinterpret_cast<const uint2*>(operand + read_operand_[1]);
      int digits[3][4] = {};
      cuda::mma_int8(digits[0], a, low.x, low.y);
      cuda::mma_int8(digits[1], a, low.z, low.w);
      cuda::mma_int8(digits[2], a, high.x, high.y);
      const int of_operand = block * Size::kBlockColumns / 128;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int sum = digits[0][i] + (digits[1][i] << 7) + (digits[2][i] << 14);
        add_group(__fmul_rn(static_cast<float>(sum), Fp4Operand::kOfProduct),
                  scales.operand[i % 2][of_operand], scales.weight[i / 2][block], sums[i]);
      }
    }
  }

  // The groups that end with two blocks.
  __device__ void promote(int block, double (&partial)[2][4], const Scales& scales, float (&sums)[4]) {
    if constexpr (Form::kBlocksOfGroup == 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) partial[0][i] = __dadd_rn(partial[0][i], partial[1][i]);
      promote_group(block / 2, partial[0], scales, sums);
      reset(partial[1]);
    }
  }
  // acc = fma(fp32(partial), sa * sb, acc)
  __device__ static void add_group(float partial, float of_operand, Scale of_weight, float& sum) {
    sum = __fmaf_rn(partial, __fmul_rn(of_operand, value_of(of_weight)), sum);
  }
  // Groups beyond the last column are zeros, and change nothing.
  __device__ static void promote_group(int k, double (&partial)[4], const Scales& scales, float (&sums)[4]) {
    const int of_operand = k * Size::kGroupColumns / 128;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      add_group(static_cast<float>(__dmul_rn(partial[i], Form::kPerProduct)),
                scales.operand[i % 2][of_operand], scales.weight[i / 2][k], sums[i]);
    }
    reset(partial);
  }
  __device__ static void reset(double (&partial)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) partial[i] = 0.0;
  }

  // A NaN's code makes every product of its row one.
  __device__ void spoil_rows_of_nan(float (&sums)[4]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      noted_[i] |= __shfl_xor_sync(~0u, noted_[i], 1);
      noted_[i] |= __shfl_xor_sync(~0u, noted_[i], 2);
      if ((noted_[i] & 0x80808080u) != 0) sums[2 * i] = sums[2 * i + 1] = __uint_as_float(0x7FC00000u);
    }
  }

  std::byte* shared_;
  int stage_bytes_, count_, stages_, bytes_, groups_, scale_step_;
  int64_t four_rows_;
  const std::byte* weights_[2];  // what this lane copies, but for the stage
  const uint32_t* operands_[2];
  const Scale* weight_scales_[2];  // of rows g, g + 8
  const float* operand_scales_[2];
  int read_operand_[2];  // of even and odd q
  uint32_t noted_[2] = {};
  bool wide_scales_;
};

}  // namespace fulgurite::experts
