#include "fulgurite/plan/counts.h"

#include <algorithm>

namespace fulgurite::plan {
namespace {

// The row that reads what this layer left: the norm that makes its residual sum, or the update of its streams.
bool follows(const Row& row, int64_t layer, const model::Config& config) {
  const std::string_view operation = config.streams ? "hyper_connection" : "norm";
  if (layer + 1 == config.layers)
    return row.layer == model::kNoLayer && row.operation == fmt::format("{} final", operation);
  return row.layer == layer + 1 && row.operation == fmt::format("{} attention", operation);
}

bool is_head(const Row& row) { return row.layer == model::kNoLayer && row.operation == "linear head"; }

bool is_choice(const Row& row) { return row.operation == "largest_logits"; }

// A call of the operation: the row runs it if its range of token counts holds it.
void call(const Row& row, int64_t tokens, RowCount& count) {
  if (tokens >= row.first_token && tokens <= row.last_token) count.add(row.implementation, tokens);
}

// The head meets rows of logits, everything else every token.
void count_pass(const Row& row, const Pass& pass, bool chunks_alone, const model::Config& config,
                RowCount& count) {
  if (is_choice(row)) return pass.chooses ? call(row, pass.chunks, count) : void();
  if (chunks_alone) return call(row, pass.chunks, count);
  for (const Pass::Split& split : pass.splits) {
    if (!follows(row, split.layer, config)) continue;
    call(row, split.first_token, count);
    return call(row, pass.tokens - split.first_token, count);
  }
  call(row, pass.tokens, count);
}

std::string amount(int64_t count, std::string_view what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

}  // namespace

std::vector<Pass> chunked(int64_t tokens, int64_t chunk) {
  std::vector<Pass> passes;
  for (int64_t at = 0; at < tokens; at += chunk) passes.push_back({std::min(chunk, tokens - at)});
  return passes;
}

std::vector<RowCount> no_counts(const Plan& plan) {
  std::vector<RowCount> counts;
  for (const Row& row : plan.rows) counts.push_back({row.implementation});
  return counts;
}

std::vector<RowCount> predicted_counts(const Plan& plan, std::span<const Pass> passes) {
  std::vector<RowCount> counts = no_counts(plan);
  for (size_t i = 0; i < counts.size(); ++i) {
    const Row& row = plan.rows[i];
    const bool chunks_alone = plan.options.logits == LogitRows::kLast && is_head(row);
    for (const Pass& pass : passes) count_pass(row, pass, chunks_alone, plan.config, counts[i]);
  }
  return counts;
}

std::vector<CountDifference> compare_counts(const Plan& plan, std::span<const Pass> passes,
                                            std::span<const RowCount> counted) {
  const std::vector<RowCount> expected = predicted_counts(plan, passes);
  FULGURITE_ASSERT(expected.size() == counted.size(), "{} rows are planned, {} are counted", expected.size(),
                   counted.size());
  std::vector<CountDifference> differences;
  for (size_t i = 0; i < expected.size(); ++i)
    if (expected[i] != counted[i]) differences.push_back({i, expected[i], counted[i]});
  return differences;
}

std::string describe(const Plan& plan, const CountDifference& difference) {
  const Row& row = plan.rows[difference.row];
  const RowCount &expected = difference.expected, &counted = difference.counted;
  std::string text =
      fmt::format("{}{}: expected {} of {} with {}, counted {} with {}",
                  row.layer == model::kNoLayer ? "" : fmt::format("layer {} ", row.layer), row.operation,
                  amount(expected.calls, "call"), expected.planned, amount(expected.tokens, "token"),
                  amount(counted.calls, "call"), amount(counted.tokens, "token"));
  if (counted.unplanned_calls > 0)
    text += fmt::format(" and {} of {}, which the plan did not choose",
                        amount(counted.unplanned_calls, "call"), counted.unplanned);
  return text;
}

}  // namespace fulgurite::plan
