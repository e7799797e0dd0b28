#include "fulgurite/plan/joined.h"

namespace fulgurite::plan {

Support joins(const StoredMatrix& upper, const StoredMatrix& lower) {
  const MatrixFormat format = format_of(upper), other = format_of(lower);
  if (format != other) return Refusal{fmt::format("weights in {} and {}", describe(format), describe(other))};
  if (format.form != MatrixForm::kE4M3Blocks)
    return Refusal{fmt::format("weights in {}, takes e4m3 in blocks", describe(format))};
  if (upper.in != lower.in) return Refusal{fmt::format("weights of {} and {} columns", upper.in, lower.in)};
  if (upper.out % format.block.rows != 0)
    return Refusal{fmt::format("{} rows end inside a block of {}", upper.out, describe(format))};
  return std::nullopt;
}

StoredMatrix outline_of_joined(const StoredMatrix& upper, const StoredMatrix& lower) {
  BlockScaled both = std::get<BlockScaled>(upper.as);
  const int64_t out = upper.out + lower.out;
  both.data = {nullptr, {out, upper.in}};
  both.scale = {};
  both.exponents = {};
  return {both, out, upper.in};
}

}  // namespace fulgurite::plan
