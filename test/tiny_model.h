#pragma once
// The tiny checkpoints and what was recorded of them, for the end-to-end tests.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "fulgurite/fulgurite.h"
#include "test/paths.h"

namespace fulgurite::test {

inline const std::string kSource = kSourceDir;
inline const std::string kTinyV32 = kSource + "/models/tiny-v32";
inline const std::string kTinyGlm5 = kSource + "/models/tiny-glm5";
inline const std::string kTinyV4 = kSource + "/models/tiny-v4";
inline const std::string kGolden = kSource + "/golden/tiny-v32.safetensors";

struct TinyModel {
  explicit TinyModel(const std::string& directory = kTinyV32) : checkpoint(checkpoint::open(directory)) {}
  checkpoint::Checkpoint checkpoint;
  model::Model model = model::bind(checkpoint);
};

// A tiny checkpoint of each family with the sequences that the oracle computed (golden/README.md).
struct Recorded {
  std::string name;
  int sequences = 0;
  int64_t positions = 0;  // of each sequence
  int64_t last = 0;       // of them were recorded
  std::string directory() const { return kSource + "/models/" + name; }
  std::string golden() const { return kSource + "/golden/" + name + ".safetensors"; }
};
inline const Recorded kRecordedV32{"tiny-v32", 4, 512, 32}, kRecordedGlm5{"tiny-glm5", 2, 384, 16},
    kRecordedV4{"tiny-v4", 2, 640, 16};
inline const Recorded kRecorded[] = {kRecordedV32, kRecordedGlm5, kRecordedV4};

inline std::vector<int32_t> golden_ids(int sequence, const std::string& file = kGolden) {
  const auto golden = checkpoint::SafetensorsFile::open(file);
  const auto ids = checkpoint::i32_values(golden.require(fmt::format("seq{}.input_ids", sequence)));
  return {ids.begin(), ids.end()};
}

inline plan::Options trace_options(const Numerics& numerics, int64_t positions, int64_t chunk_tokens) {
  plan::Options options;
  options.numerics = numerics;
  options.context = positions;
  options.chunk_tokens = chunk_tokens;
  options.logits = plan::LogitRows::kAll;
  options.tracing = plan::Tracing::kOn;
  return options;
}

// Both presets, for what must hold in either.
inline const Numerics kPresets[] = {Numerics::fp32(), Numerics::serving()};

inline Device device(int threads) {
  Device device = cpu::machine();
  device.threads = threads;
  return device;
}

// The relative L2 distance of a from b.
inline double distance(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / norm);
}

// A file of this test process that nobody else writes; gone when the process ends.
inline std::filesystem::path scratch_file(const std::string& name) {
  struct Directory {
    std::filesystem::path path =
        std::filesystem::temp_directory_path() / fmt::format("fulgurite_test_{}", getpid());
    Directory() { std::filesystem::create_directories(path); }
    ~Directory() { std::filesystem::remove_all(path); }
  };
  static const Directory directory;
  return directory.path / name;
}

}  // namespace fulgurite::test
