// Passes whose tokens are chosen at once: no logits for the caller.

#include <algorithm>

#include "fulgurite/core/error.h"
#include "fulgurite/execute/session.h"

namespace fulgurite::execute {
namespace {

bool is_greedy(const Sampler* sampler) { return sampler == nullptr || sampler->options().temperature == 0.0; }

LargestLogits row_of(const LargestOutputs& found, int64_t row) {
  const int64_t numbers = found.numbers(row), count = std::min(numbers, found.ids.extent[1]);
  return {{found.ids[row].data, static_cast<size_t>(count)},
          {found.values[row].data, static_cast<size_t>(count)},
          found.totals(row),
          numbers};
}

}  // namespace

std::span<const int32_t> Session::next_tokens(std::span<const Chunk> chunks,
                                              std::span<Sampler* const> samplers) {
  if (plan_.options.logits != plan::LogitRows::kLast)
    fail(ErrorKind::kRequest,
         "tokens are chosen where the plan keeps the logits of last tokens (LogitRows::kLast)");
  if (chunks.size() != samplers.size())
    fail(ErrorKind::kRequest, "samplers: expected {}, one a chunk, found {}", chunks.size(), samplers.size());
  check(chunks);
  memory_.host_reads ? choose_here(chunks, samplers) : choose_there(chunks, samplers);
  return {chosen_.data(), chunks.size()};
}

void Session::choose_here(std::span<const Chunk> chunks, std::span<Sampler* const> samplers) {
  const View<const float, 2> logits = attempt(chunks, [&] { return forward_here(chunks, nullptr, nullptr); });
  for (size_t i = 0; i < samplers.size(); ++i)
    chosen_[i] = samplers[i] == nullptr ? -1 : samplers[i]->next(logits[static_cast<int64_t>(i)]);
}

void Session::choose_there(std::span<const Chunk> chunks, std::span<Sampler* const> samplers) {
  const PassInputs inputs = cut_inputs(plan_, staging_.data());
  for (size_t i = 0; i < samplers.size(); ++i)
    inputs.temperatures(i) = samplers[i] == nullptr ? 0.0 : samplers[i]->options().temperature;
  View<float, 2> logits;
  const LargestOutputs largest = attempt(chunks, [&] {
    logits = pass_there(chunks);
    return read_largest(logits, count_of(samplers));
  });
  for (size_t row = 0; row < samplers.size(); ++row) {
    chosen_[row] = -1;
    Sampler* const sampler = samplers[row];
    if (sampler == nullptr) continue;
    const auto at = static_cast<int64_t>(row);
    const std::optional<int32_t> id = sampler->next(row_of(largest, at));
    chosen_[row] = id ? *id : sampler->next(read(logits.slice(0, at, 1))[0]);
  }
}

// How many of the largest logits of a row the samplers need; 0 where no token is chosen.
int64_t Session::count_of(std::span<Sampler* const> samplers) const {
  if (std::ranges::all_of(samplers, [](const Sampler* sampler) { return sampler == nullptr; })) return 0;
  return std::ranges::all_of(samplers, is_greedy) ? 1 : plan_.activations.largest_width;
}

// The `count` largest logits of each row, here. Waits.
LargestOutputs Session::read_largest(const View<float, 2>& logits, int64_t count) {
  if (count == 0) {
    plan_.device.accelerator->wait(stream_.get());  // the inputs have been read
    return {};
  }
  const plan::ActivationLayout& at = plan_.activations;
  const int64_t rows = logits.extent[0];
  const LargestOutputs there = cut_largest(plan_, arena_.data() + at.largest_totals, rows, count);
  plan_.largest->run({logits, cut_inputs(plan_, arena_.data()).temperatures.slice(0, 0, rows), there.ids,
                      there.values, there.totals, there.numbers},
                     rows, lane_);
  std::byte* const end = staging_.data() + staging_.size() - (at.largest_end - at.largest_totals);
  const LargestOutputs here = cut_largest(plan_, end, rows, count);
  memory_.read(end, there.totals.data, here.bytes, stream_.get());
  return here;
}

// Chooses from what no pass has written yet, so that nothing of it is loaded when the first token asks for it.
void Session::try_choices() {
  if (!plan_.largest || plan_.options.logits != plan::LogitRows::kLast) return;
  for (const int64_t count : {int64_t{1}, plan_.activations.largest_width})
    read_largest(cut_logits(plan_, arena_.data(), 1), count);
  reset_counts();
}

int32_t Session::next_token(int32_t sequence, std::span<const int32_t> ids, Sampler* sampler) {
  const Chunk chunk{sequence, ids};
  return next_tokens({&chunk, 1}, {&sampler, 1})[0];
}

}  // namespace fulgurite::execute
