#pragma once
// A matrix in e4m3 blocks, again with scales that are powers of two: for kernels that read no other. A scale
// that is rounded up without new codes for its block makes every value of the block larger; here is the one
// place where scales become powers of two, and codes and scales leave it together.
//
// A block whose scale is a power of two keeps both, so that requantizing twice is requantizing once. Any
// other gets weight_scale(amax, kPow2) of core/encode.h, and new codes. The original stays as it is stored.

#include <cstdint>
#include <vector>

#include "fulgurite/core/encode.h"
#include "fulgurite/core/encoding_error.h"
#include "fulgurite/core/matrix.h"

namespace fulgurite {

// Exponents of the scales as kernels of sm100 and sm120 read them: word(r, g) holds those of row r of the
// matrix (not of blocks: each stands for every row of its block) and of columns 4 g to 4 g + 3 of blocks, the
// first in the lowest byte; zeros beyond the last. Columns are contiguous, each padded to a multiple of 4
// words.
class PackedScales {
 public:
  int64_t rows() const { return rows_; }
  int64_t groups() const { return groups_; }
  int64_t column_words() const { return (rows_ + 3) / 4 * 4; }
  uint32_t word(int64_t row, int64_t group) const {
    return words_[static_cast<size_t>(group * column_words() + row)];
  }
  const std::vector<uint32_t>& words() const { return words_; }
  static int64_t bytes(int64_t out, int64_t in, BlockShape block);

 private:
  friend class Requantized;
  PackedScales(const BlockScaled& matrix, int64_t out, int64_t in);

  int64_t rows_ = 0;
  int64_t groups_ = 0;
  std::vector<uint32_t> words_;
};

class Requantized {
 public:
  // A matrix of form kE4M3Blocks. Throws Error{kModel} for any other.
  explicit Requantized(const StoredMatrix& original);
  Requantized(const Requantized&) = delete;  // what it gives out views it
  Requantized& operator=(const Requantized&) = delete;

  const StoredMatrix& original() const { return original_; }
  StoredMatrix stored() const;                           // e8m0 scales, row-major; views this
  PreparedMatrix packed() const;                         // the same, as kernels read it; views this
  const EncodingError& error() const { return error_; }  // against the original
  int64_t kept_blocks() const { return kept_; }          // whose scale was a power of two

 private:
  StoredMatrix original_;
  int64_t kept_ = 0;
  EncodedMatrix encoded_;
  EncodingError error_;
  PackedScales packed_;
};

}  // namespace fulgurite
