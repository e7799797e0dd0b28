#include "fulgurite/audit/operation_audit.h"

#include <algorithm>
#include <cmath>

#include "fulgurite/audit/by_reference.h"
#include "fulgurite/audit/tensors.h"
#include "fulgurite/ops/compressed_attention/compressed_attention_audit.h"
#include "fulgurite/ops/compressor/compressor_audit.h"
#include "fulgurite/ops/embedding/embedding_audit.h"
#include "fulgurite/ops/expanded_attention/expanded_attention_audit.h"
#include "fulgurite/ops/experts/experts_audit.h"
#include "fulgurite/ops/head_projection/head_projection_audit.h"
#include "fulgurite/ops/hyper_connection/hyper_connection_audit.h"
#include "fulgurite/ops/index_select/index_select_audit.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare_audit.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_audit.h"
#include "fulgurite/ops/kv_prepare/kv_prepare_audit.h"
#include "fulgurite/ops/largest_logits/largest_logits_audit.h"
#include "fulgurite/ops/latent_prepare/latent_prepare_audit.h"
#include "fulgurite/ops/linear/linear_audit.h"
#include "fulgurite/ops/norm/norm_audit.h"
#include "fulgurite/ops/query_prepare/query_prepare_audit.h"
#include "fulgurite/ops/rotary/rotary_audit.h"
#include "fulgurite/ops/router/router_audit.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_audit.h"

namespace fulgurite::audit {
namespace {

// `count` of the tokens, spread, the last among them: it sees the most.
std::vector<int64_t> spread(int64_t tokens, int64_t count) {
  std::vector<int64_t> some;
  for (int64_t i = 1; i <= std::min(tokens, count); ++i)
    some.push_back(tokens * i / std::min(tokens, count) - 1);
  return some;
}

// What a call of the compressor changes beside its outputs, given back at the end.
template <class Args>
struct Restored {
  explicit Restored(const Args&) {}
};
template <>
struct Restored<compressor::Args> {
  explicit Restored(const compressor::Args& args)
      : state(args.state), before(copy_of(ConstTensor<4>(args.state))) {}
  Restored(const Restored&) = delete;
  Restored& operator=(const Restored&) = delete;
  ~Restored() {
    const View<float, 4> was = before.view().template as<float>();
    std::copy_n(was.data, was.size(), state.data);  // contiguous, as the session cuts it
  }
  View<float, 4> state;
  OwnedTensor<4> before;
};

void add(std::vector<Judged>& all, const OpReport& report) {
  for (const OutputReport& output : report.outputs) {
    auto found = std::ranges::find(all, output.name, &Judged::name);
    if (found == all.end()) found = all.insert(all.end(), Judged{output.name});
    const Difference& d = output.difference;
    found->elements += d.elements;
    found->beyond += d.beyond;
    found->mask_mismatches += d.mask_mismatches;
    found->worst_share = std::max(found->worst_share, d.worst_share);
    found->relative_l2 = std::max(found->relative_l2, d.relative_l2);
  }
}

float value_at(const Tensor<3>& tensor, int64_t t, int64_t a, int64_t b) {
  return tensor.dtype == DType::kF8_E4M3 ? to_float(tensor.as<e4m3>()(t, a, b)) : load(tensor, t, a, b);
}

template <class T, class Load>
std::vector<T> row_of(const Tensor<3>& tensor, const Load& load_value) {
  std::vector<T> row;
  row.reserve(static_cast<size_t>(tensor.extent[1] * tensor.extent[2]));
  for (int64_t a = 0; a < tensor.extent[1]; ++a)
    for (int64_t b = 0; b < tensor.extent[2]; ++b) row.push_back(load_value(a, b));
  return row;
}

void add_row(TensorStatistics& statistics, int64_t position, const Tensor<3>& actual,
             const Tensor<3>& expected, int64_t t) {
  if (actual.dtype == DType::kI32) {
    const auto row = [t](const Tensor<3>& x) {
      return row_of<int32_t>(x, [&](int64_t a, int64_t b) { return x.as<int32_t>()(t, a, b); });
    };
    return statistics.add_indices(row(actual), row(expected));
  }
  const auto row = [t](const Tensor<3>& x) {
    return row_of<float>(x, [&](int64_t a, int64_t b) { return value_at(x, t, a, b); });
  };
  statistics.add_row(position, row(actual), row(expected), actual.dtype);
}

// Where a token stands; of a call that does not say it, how many came before.
template <class Args>
int64_t position_of(const Args& args, int64_t t, int64_t before) {
  if constexpr (requires { args.places; })
    return args.places(t).position;
  else
    return before + t;
}

template <class Args>
void add_outputs(std::vector<OutputStatistics>& all, const Args& actual, const Args& expected,
                 int64_t tokens) {
  const std::vector<OutputTensor> a = outputs_of(actual), b = outputs_of(expected);
  if (all.empty())
    for (const OutputTensor& output : a) all.push_back({std::string(output.name), {}});
  const int64_t before = all.empty() ? 0 : all.front().statistics.rows;
  for (size_t i = 0; i < a.size(); ++i)
    for (int64_t t = 0; t < tokens; ++t)
      add_row(all[i].statistics, position_of(actual, t, before), a[i].view, b[i].view, t);
}

}  // namespace

bool OperationResult::within() const {
  return std::ranges::all_of(judged, [](const Judged& output) { return output.beyond == 0; });
}

double OperationResult::worst_share() const {
  double worst = 0.0;
  for (const Judged& output : judged) worst = std::max(worst, output.worst_share);
  return worst;
}

OperationAudit::OperationAudit(const plan::Plan& planned, const plan::Plan& references, int64_t tokens)
    : memory_(planned.device.accelerator == nullptr ? kHostMemory : *planned.device.accelerator->shared),
      workspace_(memory_, planned.bytes.workspace),
      tokens_(tokens) {
  FULGURITE_ASSERT(planned.rows.size() == references.rows.size(), "{} rows against {}", planned.rows.size(),
                   references.rows.size());
  for (const plan::Row& row : planned.rows)
    results_.push_back({row.layer, row.operation, row.implementation, 0, {}, {}});
}

// The lane of a call of the references', with the workspace that the audited rows asked for.
Lane OperationAudit::lane_of(Lane lane) const {
  lane.workspace = {workspace_.data(), static_cast<size_t>(workspace_.size())};
  return lane;
}

void OperationAudit::run(const plan::AnyCall& call) {
  const TensorMemory scope(memory_);
  std::visit([this](const auto* typed) { take(*typed); }, call);
}

template <class Row>
const Row& OperationAudit::audited(int64_t row) const {
  if (const auto found = stand_ins_.find(row); found != stand_ins_.end())
    return *std::any_cast<const Row*>(found->second);
  return row_named<Row>(results_[static_cast<size_t>(row)].implementation);
}

template <class Problem, class Args>
void OperationAudit::judge_some(const plan::StepCall<Problem, Args>& call,
                                const Implementation<Problem, Args>& row, OperationResult& result) {
  const Restored<Args> restored(call.args);
  const Lane lane = lane_of(call.lane);
  const std::vector<int64_t> tokens =
      kTokensStandAlone<Args> ? spread(call.tokens, tokens_) : all_tokens(call.tokens);
  const TokenCopy<Args> copy(call.args, tokens);
  result.judged_tokens += static_cast<int64_t>(tokens.size());
  add(result.judged, judge(row, call.problem, copy.args(), lane));
}

template <class Problem, class Args>
void OperationAudit::take(const plan::StepCall<Problem, Args>& call) {
  OperationResult& result = results_[static_cast<size_t>(call.row)];
  const auto& row = audited<Implementation<Problem, Args>>(call.row);
  if (&row == &call.implementation)
    return run_in_parts(call.implementation, call.problem, call.args, call.tokens, call.lane);
  if constexpr (requires { row.reads(call.problem) == call.problem.weight; })
    FULGURITE_ASSERT(row.reads == nullptr || row.reads(call.problem) == call.problem.weight,
                     "{} reads another form of the weight", row.name);
  judge_some(call, row, result);
  const TokenCopy<Args> copy(call.args, all_tokens(call.tokens));
  {
    const Restored<Args> restored(call.args);
    row.run(call.problem, copy.args(), lane_of(call.lane));
  }
  run_in_parts(call.implementation, call.problem, call.args, call.tokens, call.lane);
  add_outputs(result.outputs, copy.args(), call.args, call.tokens);
}

}  // namespace fulgurite::audit
