#include "fulgurite/ops/kv_prepare/kv_prepare_audit.h"

#include <cmath>

#include "fulgurite/audit/tensors.h"
#include "fulgurite/ops/norm/norm_audit.h"

namespace fulgurite::kv_prepare {
namespace {

// A cache that owns its bytes.
class OwnedRows {
 public:
  OwnedRows(const KvRow& row, int64_t sequences, int64_t rows)
      : row_(row), bytes_(DType::kU8, {sequences, KvRow::blocks(rows), row.block_bytes()}) {}
  KvRows view() const { return {row_, {bytes_.view().data, bytes_.view().extent}}; }

 private:
  KvRow row_;
  audit::OwnedTensor<3> bytes_;
};

// A row as attention reads it, and of fp8 its scales.
struct Stored {
  std::vector<float> values, scales;
};

Stored read(const ConstKvRows& cache, int64_t sequence, int64_t index) {
  Stored stored;
  for (int64_t i = 0; i < cache.row.width(); ++i) stored.values.push_back(cache.value(sequence, index, i));
  const std::byte* const scales = cache.scales_at(sequence, index);
  for (int64_t g = 0; g < cache.row.groups() && cache.row.form == LatentCache::kFp8; ++g)
    stored.scales.push_back(to_float(e8m0{std::to_integer<uint8_t>(scales[g])}));
  return stored;
}

// The rows that the norm may make of a token, the reference's among them.
std::vector<Stored> possible_rows(const Problem& problem, const Args& args, int64_t t) {
  const int64_t p = args.places(t).position;
  const OwnedRows memory(args.cache.row, 1, 1);
  std::vector<float> s;
  for (int64_t i = 0; i < problem.head_dim; ++i) s.push_back(load(args.kv, t, i));
  std::vector<Stored> rows;
  for (const float r : norm::possible_roots({problem.setting, problem.head_dim, problem.eps}, s)) {
    std::vector<float> row;
    for (int64_t i = 0; i < problem.head_dim; ++i)
      row.push_back(round_to(args.kv.dtype, args.weight(i) * (s[static_cast<size_t>(i)] * r)));
    rotary::rotate(rotary::Layout::kInterleaved, args.table.cosine[p].data, args.table.sine[p].data,
                   problem.rope, row.data() + problem.head_dim - problem.rope);
    for (float& value : row) value = round_to(args.kv.dtype, value);
    store_kv_row(memory.view(), 0, 0, row, problem.setting.numerics.kv_quant);
    rows.push_back(read(memory.view(), 0, 0));
  }
  return rows;
}

// Row of the ring where a token's row goes.
int64_t index_of(const Problem& problem, const Args& args, int64_t t) {
  return args.places(t).position % problem.ring;
}

}  // namespace

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  const OwnedRows expected(args.cache.row, problem.sequences, problem.ring);
  Args reference = args;
  reference.cache = expected.view();
  kReference.run(problem, reference, {});
  row.run(problem, args, lane);
  audit::PossibleValues values, scales;
  for (int64_t t = 0; t < args.kv.extent[0]; ++t) {
    const int64_t sequence = args.places(t).sequence, index = index_of(problem, args, t);
    const Stored is = read(args.cache, sequence, index), should_be = read(expected.view(), sequence, index);
    values.add(is.values, should_be.values);
    scales.add(is.scales, should_be.scales);
    for (const Stored& may_be : possible_rows(problem, args, t)) {
      values.allow(may_be.values);
      scales.allow(may_be.scales);
    }
  }
  return {{{"values", values.difference()}, {"scales", scales.difference()}}};
}

}  // namespace fulgurite::kv_prepare
