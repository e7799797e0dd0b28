#include "fulgurite/ops/indexer_prepare/indexer_prepare_audit.h"

#include <vector>

#include "fulgurite/core/element.h"

namespace fulgurite::indexer_prepare {
namespace {

// What the reference writes.
struct Outputs {
  std::vector<std::byte> q_operand, keys;
  std::vector<float> scales, weights, rotated_q, rotated_k;
};

// A contiguous tensor of the same type and shape.
template <int Rank>
Tensor<Rank> like(const Tensor<Rank>& other, std::vector<std::byte>& bytes) {
  const View<std::byte, Rank> shape(nullptr, other.extent);
  bytes.resize(static_cast<size_t>(shape.size() * other.element_bytes()));
  Tensor<Rank> made = other;
  made.data = bytes.data();
  made.stride = shape.stride;
  return made;
}
template <int Rank>
View<float, Rank> like(const View<float, Rank>& other, std::vector<float>& elements) {
  if (!other) return other;
  elements.resize(static_cast<size_t>(other.size()));
  return {elements.data(), other.extent};
}

// args with outputs of their own.
Args redirected(const Args& args, Outputs& out) {
  Args other = args;
  other.q_operand = like(args.q_operand, out.q_operand);
  if (args.key_cache.keys) other.key_cache.keys = like(args.key_cache.keys, out.keys);
  other.key_cache.scales = like(args.key_cache.scales, out.scales);
  other.weights = like(args.weights, out.weights);
  other.rotated_q = like(args.rotated_q, out.rotated_q);
  other.rotated_k = like(args.rotated_k, out.rotated_k);
  return other;
}

void append(const Tensor<1>& row, std::vector<float>& values) {
  for (int64_t i = 0; i < row.extent[0]; ++i)
    values.push_back(row.dtype == DType::kF8_E4M3 ? to_float(row.as<e4m3>()(i)) : load(row, i));
}

std::vector<float> rows_of(const Tensor<3>& tensor) {
  std::vector<float> values;
  for (int64_t a = 0; a < tensor.extent[0]; ++a)
    for (int64_t b = 0; b < tensor.extent[1]; ++b) append(tensor[a][b], values);
  return values;
}
std::vector<float> rows_of(const Tensor<2>& tensor) {
  std::vector<float> values;
  for (int64_t a = 0; a < tensor.extent[0]; ++a) append(tensor[a], values);
  return values;
}
std::vector<float> keys_of(const Args& args) {
  std::vector<float> values;
  for (int64_t t = 0; t < args.places.extent[0]; ++t)
    append(args.key_cache.key(args.places(t).sequence, args.places(t).position), values);
  return values;
}
std::vector<float> scales_of(const Args& args) {
  std::vector<float> values;
  for (int64_t t = 0; t < args.places.extent[0]; ++t)
    values.push_back(args.key_cache.scale(args.places(t).sequence, args.places(t).position));
  return values;
}

audit::OutputReport equal(const char* name, const std::vector<float>& actual,
                          const std::vector<float>& expected) {
  return {name, audit::compare(actual, expected, std::vector<double>(expected.size(), 0.0))};
}

}  // namespace

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  row.run(problem, args, lane);
  Outputs out;
  const Args reference = redirected(args, out);
  kReference.run(problem, reference, {});
  audit::OpReport report;
  report.outputs.push_back(equal("q_operand", rows_of(args.q_operand), rows_of(reference.q_operand)));
  report.outputs.push_back(equal("weights", rows_of(args.weights), rows_of(reference.weights)));
  if (problem.keys) report.outputs.push_back(equal("key_cache", keys_of(args), keys_of(reference)));
  if (problem.keys && problem.setting.numerics.index_quant == IndexQuant::kFp8)
    report.outputs.push_back(equal("key_cache, scales", scales_of(args), scales_of(reference)));
  if (args.rotated_q)
    report.outputs.push_back(equal("rotated_q", rows_of(args.rotated_q), rows_of(reference.rotated_q)));
  if (args.rotated_k)
    report.outputs.push_back(equal("rotated_k", rows_of(args.rotated_k), rows_of(reference.rotated_k)));
  return report;
}

}  // namespace fulgurite::indexer_prepare
