#pragma once
// How a warp multiplies two tiles of 16 rows of weights by up to eight operands: both come in stages through its own
// shared memory (cp.async), and four lanes share a row, each with neighbours in it.

#include "fulgurite/cuda/mma_double.h"
#include "fulgurite/cuda/number.h"
#include "fulgurite/ops/experts/experts_cuda_kernels.h"

namespace fulgurite::experts {

inline constexpr int kStages = 4, kStageBytes = 128, kTileRows = 16,
                     kWeightBytes = 2 * kTileRows * kStageBytes;

// --- formats: what a lane holds of a block of columns, and how it becomes doubles ---

struct Fp8Form {
  static constexpr int kUnit = 16, kColumns = columns_of_lane(Weights::kFp8),
                       kBlocksOfGroup = 2;    // bytes and columns of a lane
  static constexpr double kPerProduct = 4.0;  // 2^(1016 - 1014)
  static constexpr int kSwizzle = 1;          // rows of a quarter-warp, less one
  // A code's bits, placed at a double's, are its value times 2^-1016, denormals included.
  __device__ static double value(const uint32_t (&words)[4], int i) {
    const int at_top = static_cast<int>(words[i / 4] << (24 - i % 4 * 8));
    return __hiloint2double(at_top >> 7 & static_cast<int>(0x80FE0000u), 0);
  }
  // Adds to bit 7 of each byte: a NaN's code among these.
  __device__ static void note_nan(const uint32_t (&words)[4], uint32_t& noted) {
#pragma unroll
    for (int i = 0; i < 4; ++i) noted |= (words[i] & 0x7F7F7F7Fu) + 0x01010101u;
  }
};

struct Fp4Form {
  static constexpr int kUnit = 4, kColumns = columns_of_lane(Weights::kFp4), kBlocksOfGroup = 1;
  static constexpr double kPerProduct = 256.0;  // 2^(1022 - 1014)
  static constexpr int kSwizzle = 7;
  __device__ static double value(const uint32_t (&words)[1], int i) {
    const int at_top = static_cast<int>(words[0] << (28 - i * 4));
    return __hiloint2double(at_top >> 9 & static_cast<int>(0x80380000u), 0);
  }
  __device__ static void note_nan(const uint32_t (&)[1], uint32_t&) {}
};

struct Bf16Form {
  static constexpr int kUnit = 16, kColumns = columns_of_lane(Weights::kBf16), kBlocksOfGroup = 0;  // one sum
  static constexpr double kPerProduct = 1.0;
  static constexpr int kSwizzle = 1;
  __device__ static double value(const uint32_t (&words)[4], int i) {
    return static_cast<double>(i % 2 == 0 ? cuda::low_bf16(words[i / 2]) : cuda::high_bf16(words[i / 2]));
  }
  __device__ static void note_nan(const uint32_t (&)[4], uint32_t&) {}
};

template <class Form>
inline constexpr int kBlockBytes = 4 * Form::kUnit;
template <class Form>
inline constexpr int kBlockColumns = 4 * Form::kColumns;
template <class Form>
inline constexpr int kStageColumns = kStageBytes / kBlockBytes<Form>* kBlockColumns<Form>;
template <class Form>
inline constexpr int kOperandBytes = kStageColumns<Form> * 4;  // of a row in a stage

template <class Form>
int stream_bytes(int most_rows) {
  return kStages * (kWeightBytes + std::min(most_rows, kEntryRows) * kOperandBytes<Form>);
}

// --- copies ---

// 16 bytes, or zeros.
__device__ inline void copy_16(std::byte* to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(there ? 16 : 0)
               : "memory");
}

template <class Form>
class Stream {
 public:
  __device__ Stream(std::byte* shared, int most_rows, const MatrixShape& shape, const MatrixAt (&matrices)[2],
                    const int (&first_rows)[2], const Operand& operand, int count, int own_operand_row)
      : shared_(shared),
        stage_bytes_(kWeightBytes + min(most_rows, kEntryRows) * kOperandBytes<Form>),
        shape_(shape),
        operand_(operand),
        count_(count),
        operand_row_(own_operand_row) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      tiles_[m] = matrices[m].data;
      scales_[m] = matrices[m].scales;
      first_[m] = first_rows[m];
    }
  }

  // sums[m][i]: rows g (i < 2) and g + 8 of tile m, times operands 2t + i % 2 of the entry.
  __device__ void sum(float (&sums)[2][4]) {
    const int stages = (shape_.columns + kStageColumns<Form> - 1) / kStageColumns<Form>;
    double partial[2][4] = {};
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) load(s, stages);
    for (int s = 0; s < stages; ++s) {
      asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
      __syncwarp();  // all lanes' copies have come, and all are done with the stage before
      load(s + kStages - 1, stages);
      multiply(s, partial, sums);
    }
    if constexpr (Form::kBlocksOfGroup == 0) {
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[i / 4][i % 4] = static_cast<float>(partial[i / 4][i % 4]);
    }
    spoil_rows_of_nan(sums);
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ std::byte* stage(int s) const { return shared_ + s % kStages * stage_bytes_; }
  __device__ static int swizzled(int row, int unit) {
    return unit ^ (row & Form::kSwizzle) * (8 / (Form::kSwizzle + 1));
  }
  __device__ int row_of(int m, int row) const { return min(first_[m] + row, shape_.rows - 1); }

  __device__ void load(int s, int stages) {
    if (s < stages) {
      std::byte* const to = stage(s);
      const int unit = lane() % 8, used = static_cast<int>(bytes_of_row());
      const int at = s * kStageBytes + unit * 16;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int row = 4 * i + lane() / 8;
        const std::byte* const from = tiles_[i / 4] + row_of(i / 4, row % kTileRows) * shape_.row_bytes;
        copy_16(to + row * kStageBytes + swizzled(row, unit) * 16, from + (at < used ? at : 0), at < used);
      }
      load_operands(to + kWeightBytes, s);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  __device__ void load_operands(std::byte* to, int s) {
    constexpr int kUnits = kOperandBytes<Form> / 16;
    for (int n = 0; n < count_; ++n) {
      const int64_t row = __shfl_sync(~0u, operand_row_, n);
      const uint32_t* const from = operand_.words + row * operand_.columns + s * kStageColumns<Form>;
#pragma unroll
      for (int unit = lane(); unit < kUnits; unit += 32)
        copy_16(to + n * kOperandBytes<Form> + (unit ^ (n & 1) * 4) * 16, from + unit * 4, true);
    }
  }
  __device__ int64_t bytes_of_row() const { return int64_t{shape_.columns} * Form::kUnit / Form::kColumns; }

  using Words = uint32_t[Form::kUnit / 4];
  __device__ void read_weights(Words& words, const std::byte* stage, int row, int block) const {
    const int offset = block * kBlockBytes<Form> + lane() % 4 * Form::kUnit;
    const std::byte* const at = stage + row * kStageBytes + swizzled(row, offset / 16) * 16 + offset % 16;
    if constexpr (Form::kUnit == 16) {
      const uint4 four = *reinterpret_cast<const uint4*>(at);
      words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
    } else {
      words[0] = *reinterpret_cast<const uint32_t*>(at);
    }
  }
  __device__ void read_operand(double (&b)[4], const std::byte* stage, int block, int q) const {
    const int n = lane() / 4, unit = block * kBlockColumns<Form> / 4 + q * 4 + lane() % 4;
    uint4 four{};
    if (n < count_)
      four = *reinterpret_cast<const uint4*>(stage + kWeightBytes + n * kOperandBytes<Form> +
                                             (unit ^ (n & 1) * 4) * 16);
    b[0] = __hiloint2double(static_cast<int>(four.x), 0);
    b[1] = __hiloint2double(static_cast<int>(four.y), 0);
    b[2] = __hiloint2double(static_cast<int>(four.z), 0);
    b[3] = __hiloint2double(static_cast<int>(four.w), 0);
  }

  __device__ void multiply(int s, double (&partial)[2][4], float (&sums)[2][4]) {
    constexpr int kBlocks = kStageBytes / kBlockBytes<Form>;
    const std::byte* const from = stage(s);
    const int g = lane() / 4;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      Words words[2][2];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        read_weights(words[i / 2][i % 2], from, i / 2 * kTileRows + i % 2 * 8 + g, block);
        Form::note_nan(words[i / 2][i % 2], noted_[i / 2][i % 2]);
      }
#pragma unroll
      for (int q = 0; q < Form::kColumns / 4; ++q) {
        double b[4];
        read_operand(b, from, block, q);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          double a[8];
#pragma unroll
          for (int i = 0; i < 8; ++i) a[i] = Form::value(words[m][i % 2], 4 * q + i / 2);
          cuda::mma_double(partial[m], a, b);
        }
      }
      if constexpr (Form::kBlocksOfGroup > 0) {
        if ((block + 1) % Form::kBlocksOfGroup == 0)
          promote((s * kBlocks + block) / Form::kBlocksOfGroup, partial, sums);
      }
    }
  }

  __device__ float weight_scale(int m, int row, int group) const {
    const int64_t at =
        row_of(m, row) / shape_.block_rows * shape_.scale_stride + group / shape_.groups_of_scale;
    if (shape_.exponents)
      return cuda::e8m0_to_float(__ldg(reinterpret_cast<const uint8_t*>(scales_[m]) + at));
    return __ldg(reinterpret_cast<const float*>(scales_[m]) + at);
  }

  // acc = fma(fp32(partial), sa * sb, acc); zeros beyond the last column change nothing.
  __device__ void promote(int group, double (&partial)[2][4], float (&sums)[2][4]) {
    constexpr int kGroupColumns = Form::kBlocksOfGroup * kBlockColumns<Form>;
    if (group * kGroupColumns >= shape_.columns) return;
    const int g = lane() / 4, t = lane() % 4, of_operand = group * kGroupColumns / kGroup;
    float operand_scale[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t row = __shfl_sync(~0u, operand_row_, 2 * t + i);
      operand_scale[i] = __ldcg(operand_.scales + row * operand_.groups + of_operand);
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float scale = __fmul_rn(operand_scale[i % 2], weight_scale(m, g + i / 2 * 8, group));
        sums[m][i] =
            __fmaf_rn(static_cast<float>(__dmul_rn(partial[m][i], Form::kPerProduct)), scale, sums[m][i]);
        partial[m][i] = 0.0;
      }
    }
  }

  // A NaN's code makes every product of its row one.
  __device__ void spoil_rows_of_nan(float (&sums)[2][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t& noted = noted_[i / 2][i % 2];
      noted |= __shfl_xor_sync(~0u, noted, 1);
      noted |= __shfl_xor_sync(~0u, noted, 2);
      if ((noted & 0x80808080u) != 0)
        sums[i / 2][i % 2 * 2] = sums[i / 2][i % 2 * 2 + 1] = __uint_as_float(0x7FC00000u);
    }
  }

  static constexpr int kGroup = 128;  // columns of an operand's scale
  std::byte* shared_;
  int stage_bytes_;
  const MatrixShape& shape_;
  const Operand& operand_;
  int count_, operand_row_;  // of lanes 0 .. 7: the row of operand `lane`, or any
  const std::byte *tiles_[2], *scales_[2];
  int first_[2];
  uint32_t noted_[2][2] = {};
};

}  // namespace fulgurite::experts
