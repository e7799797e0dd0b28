#include "fulgurite/model/lint_sample.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "fulgurite/core/error.h"
#include "fulgurite/model/expert_table.h"

namespace fulgurite::model {
namespace {

constexpr int64_t kMostExperts = 4096;  // matrices of routed experts
constexpr int64_t kMostScales = 4096;
constexpr int64_t kMostBlocks = 4;
constexpr int64_t kMostBlockCodes = 128 * 128;

// `count` numbers of [0, extent), evenly, the first and the last among them.
std::vector<int64_t> spread(int64_t extent, int64_t count) {
  std::vector<int64_t> chosen;
  count = std::min(extent, count);
  for (int64_t i = 0; i < count; ++i) chosen.push_back(count == 1 ? 0 : i * (extent - 1) / (count - 1));
  return chosen;
}

// One weight in blocks.
class BlockSampler {
 public:
  BlockSampler(const Config& config, const Inspected& weight, const BlockScaled& matrix,
               std::vector<Finding>& findings)
      : config_(config),
        weight_(weight),
        matrix_(matrix),
        findings_(findings),
        scale_name_(weight.parts[1]->name),
        rows_(matrix.format == ScaleFormat::kF32 ? matrix.scale.extent[0] : matrix.exponents.extent[0]),
        columns_(matrix.format == ScaleFormat::kF32 ? matrix.scale.extent[1] : matrix.exponents.extent[1]) {}

  void run() {
    const std::vector<int64_t> chosen = spread(rows_ * columns_, kMostScales);
    if (!are_numbers(chosen)) return;
    if (matrix_.format == ScaleFormat::kF32) check_format(chosen);
    if (rows_ * columns_ <= kMostScales) check_neighbours();
    for (const int64_t block : spread(rows_ * columns_, kMostBlocks)) check_codes(block);
  }

 private:
  float scale(int64_t block) const {
    const int64_t row = block / columns_, column = block % columns_;
    return matrix_.format == ScaleFormat::kF32 ? matrix_.scale(row, column)
                                               : to_float(matrix_.exponents(row, column));
  }
  void add(Rule rule, const std::string& subject, const std::string& message) {
    findings_.push_back({rule, subject, subject + ": " + message});
  }
  std::string at(int64_t block) const {
    return fmt::format("block [{}, {}]", block / columns_, block % columns_);
  }

  bool are_numbers(const std::vector<int64_t>& chosen) {
    for (const int64_t block : chosen) {
      if (std::isfinite(scale(block)) && scale(block) > 0.0f) continue;
      add(Rule::kNotANumber, scale_name_, fmt::format("{}: a scale is {:g}", at(block), scale(block)));
      return false;
    }
    return true;
  }

  void check_format(const std::vector<int64_t>& chosen) {
    const auto is_byte = [&](int64_t block) {
      const float value = scale(block);
      return value == std::floor(value) && value >= 32.0f && value <= 254.0f;
    };
    if (std::ranges::all_of(chosen, is_byte))
      return add(Rule::kScaleBytesAsNumbers, scale_name_,
                 fmt::format("all of {} scales are integers as {:g}, which as an e8m0 byte means 2^{:g}",
                             chosen.size(), scale(0), scale(0) - 127.0f));
    if (config_.quantization->activation_scale != ScaleRounding::kPow2) return;
    const auto odd = std::ranges::find_if(chosen, [&](int64_t block) { return !exact_e8m0(scale(block)); });
    if (odd != chosen.end())
      add(Rule::kScaleNotPowerOfTwo, scale_name_,
          fmt::format("{}: scale {:g} is no power of two, config.json has scale_fmt \"ue8m0\"", at(*odd),
                      scale(*odd)));
  }

  // A scale 256 times the median of the scales around it.
  void check_neighbours() {
    for (int64_t block = 0; block < rows_ * columns_; ++block) {
      std::vector<float> around;
      const int64_t row = block / columns_, column = block % columns_;
      for (int64_t r = std::max<int64_t>(0, row - 1); r <= std::min(rows_ - 1, row + 1); ++r)
        for (int64_t c = std::max<int64_t>(0, column - 1); c <= std::min(columns_ - 1, column + 1); ++c)
          if (r != row || c != column) around.push_back(scale(r * columns_ + c));
      if (around.size() < 2) continue;
      std::ranges::sort(around);
      const float median = around[(around.size() - 1) / 2];
      if (scale(block) <= 256.0f * median || all_zero(block)) continue;
      add(Rule::kBlockOutlier, scale_name_,
          fmt::format("{}: scale {:g}, those around it have a median of {:g}", at(block), scale(block),
                      median));
      return;
    }
  }

  // The codes of a block, some of its rows if it is large.
  std::vector<e4m3> codes(int64_t block) const {
    const BlockShape& shape = matrix_.block;
    const int64_t first_row = block / columns_ * shape.rows, first_column = block % columns_ * shape.columns;
    const int64_t rows = std::min(shape.rows, weight_.matrix->out - first_row);
    const int64_t columns = std::min({shape.columns, weight_.matrix->in - first_column, kMostBlockCodes});
    std::vector<e4m3> codes;
    for (const int64_t row : spread(rows, std::max<int64_t>(1, kMostBlockCodes / columns)))
      for (int64_t c = 0; c < columns; ++c) codes.push_back(matrix_.data(first_row + row, first_column + c));
    return codes;
  }

  bool all_zero(int64_t block) const {
    return std::ranges::all_of(codes(block), [](e4m3 code) { return (code.bits & 0x7F) == 0; });
  }

  // Values that were cut off pile up in the largest code: more than twice as many as in the two below it.
  void check_codes(int64_t block) {
    std::array<int64_t, 128> counts{};
    for (const e4m3 code : codes(block)) ++counts[code.bits & 0x7F];
    if (counts[0x7F] > 0)
      add(Rule::kNotANumber, weight_.name.name, fmt::format("{}: {} codes are NaN", at(block), counts[0x7F]));
    else if (counts[0x7E] > 8 + 2 * std::max(counts[0x7D], counts[0x7C]))
      add(Rule::kSaturatedCodes, weight_.name.name,
          fmt::format("{}: {} codes are +-448, {} are +-416 and {} are +-384", at(block), counts[0x7E],
                      counts[0x7D], counts[0x7C]));
  }

  const Config& config_;
  const Inspected& weight_;
  const BlockScaled& matrix_;
  std::vector<Finding>& findings_;
  const std::string& scale_name_;
  int64_t rows_, columns_;
};

// Forms without blocks of fp8: some rows must be numbers.
void check_rows(const Inspected& weight, std::vector<Finding>& findings) {
  const StoredMatrix& matrix = *weight.matrix;
  std::vector<double> row(static_cast<size_t>(matrix.in));
  for (const int64_t r : spread(matrix.out, kMostBlocks)) {
    exact_row(matrix, r, row.data());
    const auto bad = std::ranges::find_if(row, [](double value) { return !std::isfinite(value); });
    if (bad == row.end()) continue;
    findings.push_back(
        {Rule::kNotANumber, weight.name.name,
         fmt::format("{}: element [{}, {}] is {:g}", weight.name.name, r, bad - row.begin(), *bad)});
    return;
  }
}

// One that is bound: F32 or BF16.
void check_vector(const Inspected& weight, std::vector<Finding>& findings) {
  const checkpoint::TensorView& tensor = *weight.parts.front();
  const auto element = [&](int64_t i) {
    const auto at = [&]<class T>(T value) {
      std::memcpy(&value, tensor.bytes.data() + static_cast<size_t>(i) * sizeof value, sizeof value);
      return value;
    };
    return tensor.dtype == DType::kBF16 ? to_float(at(bf16{})) : at(0.0f);
  };
  for (int64_t i = 0; i < weight.name.columns; ++i) {
    if (std::isfinite(element(i))) continue;
    findings.push_back({Rule::kNotANumber, weight.name.name,
                        fmt::format("{}: element [{}] is {:g}", weight.name.name, i, element(i))});
    return;
  }
}

void check_matrix(const Config& config, const Inspected& weight, std::vector<Finding>& findings) {
  if (const auto* const blocks = std::get_if<BlockScaled>(&weight.matrix->as))
    BlockSampler(config, weight, *blocks, findings).run();
  else
    check_rows(weight, findings);
}

}  // namespace

void sample(Inspection& inspection) {
  std::vector<const Inspected*> experts;
  for (const Inspected& weight : inspection.weights) {
    if (weight.table)
      if (auto finding = examine_table(weight.name.name, *weight.table, inspection.config->experts))
        inspection.findings.push_back(std::move(*finding));
    const bool told = !weight.form.empty();
    if (told && weight.name.form == Form::kVector) check_vector(weight, inspection.findings);
    if (!weight.matrix) continue;
    if (weight.name.expert != kNotRouted)
      experts.push_back(&weight);
    else
      check_matrix(*inspection.config, weight, inspection.findings);
  }
  for (const int64_t i : spread(static_cast<int64_t>(experts.size()), kMostExperts))
    check_matrix(*inspection.config, *experts[static_cast<size_t>(i)], inspection.findings);
}

}  // namespace fulgurite::model
