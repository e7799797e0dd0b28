// On the CPU no bit depends on chunking, threads, or what else is in the batch: trace files are equal byte
// for byte.

#include <gtest/gtest.h>

#include <algorithm>

#include "test/tool_run.h"

namespace fulgurite {
namespace {

struct Pace {
  std::string name;
  int64_t chunk;
  int threads;
  bool in_a_batch;  // between two other sequences that go at their own pace
};
constexpr const char* kOfOneFamily[] = {"chunk37_1", "chunk1_1", "batch_decode"};  // the others take the rest

// The bytes of the trace of sequence 0 of the golden file, computed as `run` says.
std::string traced(const model::Model& model, const test::Recorded& recorded, const Numerics& numerics,
                   const Pace& run) {
  const std::vector<int32_t> ids = test::golden_ids(0, recorded.golden()),
                             left = test::golden_ids(1, recorded.golden()),
                             right = test::golden_ids(recorded.sequences - 1, recorded.golden());
  const int64_t positions = recorded.positions;
  plan::Options options =
      test::trace_options(numerics, positions, run.in_a_batch ? run.chunk + 20 : run.chunk);
  options.sequences = run.in_a_batch ? 3 : 1;
  execute::Session session(model, plan::make(model, test::device(run.threads), options));
  const int32_t sequence = run.in_a_batch ? 1 : 0;
  audit::Trace trace(sequence, positions, positions);
  for (size_t at = 0; at < ids.size(); at += static_cast<size_t>(run.chunk)) {
    std::vector<execute::Chunk> chunks;
    if (run.in_a_batch && at % 3 == 0 && session.length(0) + 13 <= positions)
      chunks.push_back({0, std::span(left).subspan(static_cast<size_t>(session.length(0)), 13)});
    chunks.push_back(
        {sequence, std::span(ids).subspan(at, std::min(static_cast<size_t>(run.chunk), ids.size() - at))});
    if (run.in_a_batch && session.length(2) + 7 <= positions)
      chunks.push_back({2, std::span(right).subspan(static_cast<size_t>(session.length(2)), 7)});
    session.forward(chunks, &trace);
  }
  const auto path = test::scratch_file("determinism_" + run.name + ".safetensors");
  trace.write(path);
  return std::string(checkpoint::MappedFile(path).text());
}

TEST(determinism, traces_are_byte_identical_for_any_chunking_threads_and_batch) {
  for (const test::Recorded& recorded : test::kRecorded) {
    const test::TinyModel tiny(recorded.directory());
    for (const Numerics& numerics : test::kPresets) {
      SCOPED_TRACE(recorded.name + ", " + summary(numerics));
      const std::string whole =
          traced(tiny.model, recorded, numerics, {"whole", recorded.positions, 1, false});
      for (const Pace& run :
           {Pace{"whole_3", recorded.positions, 3, false}, Pace{"chunk37_1", 37, 1, false},
            Pace{"chunk50_2", 50, 2, false}, Pace{"chunk1_1", 1, 1, false}, Pace{"chunk1_2", 1, 2, false},
            Pace{"batch", 64, 2, true}, Pace{"batch_decode", 1, 2, true}}) {
        if (recorded.name != test::kRecordedV32.name &&
            std::ranges::find(kOfOneFamily, run.name) != std::end(kOfOneFamily))
          continue;
        EXPECT_TRUE(traced(tiny.model, recorded, numerics, run) == whole)
            << run.name << ": the trace differs from that of one pass on one thread";
      }
    }
  }
}

TEST(determinism, the_command_writes_the_same_file_for_any_chunk_and_threads) {
  for (const test::Recorded& recorded : test::kRecorded) {
    const auto written = [&](const std::string& options) {
      const auto path = test::scratch_file("command.safetensors");
      const test::ToolRun run =
          test::run_tool(fmt::format("trace {} --ids {}:seq{}.input_ids --out {} {}", recorded.directory(),
                                     recorded.golden(), recorded.sequences - 1, path.string(), options));
      EXPECT_EQ(run.exit_code, 0) << run.error;
      return std::string(checkpoint::MappedFile(path).text());
    };
    const std::string whole = written("--threads 1");
    for (const char* const options :
         {"--threads 2", "--chunk 50", "--chunk 1 --threads 2", "--chunk 600 --threads 3"})
      EXPECT_TRUE(written(options) == whole) << recorded.name << " " << options;
  }
}

TEST(determinism, an_older_instruction_set_gives_the_same_bits) {
  const Isa best =
      std::min(cpu::machine().target.isa, Isa::kAvx512Bf16);  // tiles of AMX sum in another order
  for (const test::Recorded& recorded : test::kRecorded) {
    const test::TinyModel tiny(recorded.directory());
    const std::vector<int32_t> ids = test::golden_ids(recorded.sequences - 1, recorded.golden());
    for (const Numerics& numerics : test::kPresets) {
      const plan::Options options = test::trace_options(numerics, recorded.positions, recorded.positions);
      std::vector<float> first;
      for (int isa = 0; isa <= static_cast<int>(best); ++isa) {
        Device device = test::device(2);
        device.target.isa = static_cast<Isa>(isa);
        execute::Session session(tiny.model, plan::make(tiny.model, device, options));
        const View<const float, 2> logits = session.forward(0, ids);
        const std::vector<float> values(logits.data, logits.data + logits.size());
        if (first.empty()) first = values;
        EXPECT_TRUE(values == first) << recorded.name << ", " << name(device.target.isa) << ", "
                                     << summary(numerics);
      }
    }
  }
}

TEST(determinism, a_sequence_that_was_reset_starts_anew) {
  const test::TinyModel tiny;
  const std::vector<int32_t> ids = test::golden_ids(1), other = test::golden_ids(2);
  execute::Session session(tiny.model, plan::make(tiny.model, test::device(2),
                                                  test::trace_options(Numerics::serving(), 512, 512)));
  const View<const float, 2> logits = session.forward(0, ids);
  const std::vector<float> first(logits.data, logits.data + logits.size());
  session.reset(0);
  session.forward(0, other);
  session.reset(0);
  const View<const float, 2> again = session.forward(0, ids);
  EXPECT_TRUE(std::vector<float>(again.data, again.data + again.size()) == first);
}

}  // namespace
}  // namespace fulgurite
