// Tokens that a session chooses on a GPU (execute/next_tokens.cpp): those that a sampler chooses from its logits.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "test/gpu.h"
#include "test/op_test.h"
#include "test/tiny_model.h"

namespace fulgurite {
namespace {

plan::Options options_of(const Numerics& numerics) {
  plan::Options options = test::trace_options(numerics, 24, 24);
  options.tracing = plan::Tracing::kOff;
  return options;
}

// Tokens that a session chooses, and those that a sampler chooses from its logits.
std::pair<std::vector<int32_t>, std::vector<int32_t>> choose_twice(const model::Model& model,
                                                                   const Device& device,
                                                                   const execute::SamplerOptions& sampling,
                                                                   std::span<const int32_t> prompt,
                                                                   int64_t steps) {
  plan::Options options = options_of(Numerics::serving());
  options.context = std::ssize(prompt) + steps;
  options.logits = plan::LogitRows::kLast;
  const plan::Plan plan = plan::make(model, device, options);
  execute::Session there(model, plan), here(model, plan);
  execute::Sampler chosen_there(sampling, plan.config.vocabulary),
      chosen_here(sampling, plan.config.vocabulary);
  std::vector<int32_t> found, expected;
  for (int64_t step = 0; step < steps; ++step) {
    const auto ids = step == 0 ? prompt : std::span<const int32_t>(expected).last(1);
    found.push_back(there.next_token(0, ids, &chosen_there));
    expected.push_back(chosen_here.next(here.forward(0, ids)[0]));
  }
  return {found, expected};
}

TEST(gpu, tokens_that_it_chooses_are_those_of_a_sampler_on_its_logits) {
  const test::TinyModel tiny;
  const auto ids = test::golden_ids(0);
  const int64_t steps = cuda::is_built() ? 100 : 3;
  for (const execute::SamplerOptions& sampling : {execute::SamplerOptions{0.0, 1.0, 0, 1},
                                                  {0.7, 0.95, 0, 2},
                                                  {1.0, 1.0, 0, 3},
                                                  {5.0, 1.0, 0, 4},
                                                  {1.0, 0.9, 40, 5}}) {
    const auto [found, expected] = choose_twice(tiny.model, test::gpu(), sampling,
                                                std::span(ids).first(cuda::is_built() ? 20 : 2), steps);
    EXPECT_EQ(found, expected) << sampling.temperature;
  }
}

// Bytes that come back from the emulated GPU's own memory.
int64_t bytes_read = 0;

TEST(gpu, logits_stay_where_tokens_are_chosen) {
  const test::TinyModel tiny;
  const auto ids = test::golden_ids(0);
  static const Memory kCounting = [] {
    Memory memory = *test::emulated_gpu().accelerator->own;
    memory.read = [](void* to, const void* from, int64_t bytes, void* stream) {
      bytes_read += bytes;
      kHostMemory.read(to, from, bytes, stream);
    };
    return memory;
  }();
  Device device = test::emulated_gpu();
  Accelerator counting = *device.accelerator;
  counting.own = &kCounting;
  device.accelerator = &counting;
  if (cuda::is_built()) GTEST_SKIP() << "this build's rows need a GPU's memory";
  plan::Options options = options_of(Numerics::serving());
  options.sequences = 2;
  options.logits = plan::LogitRows::kLast;
  execute::Session session(tiny.model, plan::make(tiny.model, device, options));
  execute::Sampler greedy({0.0, 1.0, 0, 1}, 2048), sampler({0.7, 0.9, 0, 1}, 2048);
  const std::vector<execute::Chunk> both{{0, std::span(ids).first(3)}, {1, std::span(ids).first(2)}};
  const auto bytes_of = [&](std::vector<execute::Sampler*> samplers) {
    bytes_read = 0;
    const auto tokens = session.next_tokens(both, samplers);
    for (size_t i = 0; i < samplers.size(); ++i) EXPECT_EQ(tokens[i] < 0, samplers[i] == nullptr);
    return bytes_read;
  };
  EXPECT_EQ(bytes_of({nullptr, nullptr}), 0);
  EXPECT_LE(bytes_of({&greedy, nullptr}), 256);
  EXPECT_LE(bytes_of({&greedy, &sampler}), 2 * 1024 * 8 + 256);
  EXPECT_THAT(test::message_of([&] { session.next_tokens(both, std::vector<execute::Sampler*>{&greedy}); }),
              testing::HasSubstr("expected 2, one a chunk, found 1"));
}

}  // namespace
}  // namespace fulgurite
