#include "fulgurite/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "fulgurite/checkpoint/test_files.h"
#include "fulgurite/checkpoint/writer.h"
#include "fulgurite/core/error.h"
#include "test/paths.h"

namespace fulgurite::checkpoint {
namespace {

using testing::ElementsAre;
using testing::StartsWith;

static_assert(!std::is_copy_constructible_v<Checkpoint> && !std::is_copy_assignable_v<Checkpoint>);

constexpr const char* kIndex = "model.safetensors.index.json";

// A directory with config.json, to which a test adds what it is about.
class Directory : public TemporaryDirectory {
 public:
  Directory() { write("config.json", "{}"); }
  void write_tensors(const std::string& file, const std::vector<std::string>& names) const {
    std::vector<TensorView> tensors;
    for (const std::string& name : names) tensors.push_back({name, DType::kU8, {1}, bytes_of("x")});
    write_safetensors(path() / file, tensors);
  }
  void write_index(const std::string& map) const { write(kIndex, R"({"weight_map":{)" + map + "}}"); }
  std::string refused() const {
    const std::string message = refusal([this] { open(path()); });
    EXPECT_THAT(message, StartsWith(path().string()));
    return message.substr(std::min(message.size(), path().string().size()));
  }
};

std::vector<std::string> names(const Checkpoint& checkpoint) {
  std::vector<std::string> names;
  for (const TensorView& tensor : checkpoint.tensors()) names.push_back(tensor.name);
  return names;
}

TEST(checkpoint, a_single_file_is_a_checkpoint) {
  const Directory directory;
  directory.write_tensors("model.safetensors", {"b", "a"});
  const Checkpoint checkpoint = open(directory.path());
  EXPECT_THAT(names(checkpoint), ElementsAre("a", "b"));
  EXPECT_THAT(checkpoint.shard_names(), ElementsAre("model.safetensors"));
  EXPECT_EQ(checkpoint.total_bytes(), 2);
  EXPECT_EQ(checkpoint.directory(), directory.path());
}

TEST(checkpoint, shards_are_one_checkpoint) {
  const Directory directory;
  directory.write_index(R"("a":"2","b":"1","c":"2")");
  directory.write_tensors("1", {"b"});
  directory.write_tensors("2", {"a", "c"});
  const Checkpoint checkpoint = open(directory.path());
  EXPECT_THAT(names(checkpoint), ElementsAre("a", "b", "c"));
  EXPECT_THAT(checkpoint.shard_names(), ElementsAre("1", "2"));
  EXPECT_EQ(checkpoint.find("b")->name, "b");
  EXPECT_EQ(checkpoint.find("bb"), nullptr);
}

TEST(checkpoint, tensors_stay_readable_when_the_checkpoint_moves) {
  const Directory directory;
  directory.write_tensors("model.safetensors", {"a"});
  Checkpoint opened = open(directory.path());
  const std::byte* const place = opened.find("a")->bytes.data();
  const Checkpoint checkpoint = std::move(opened);
  EXPECT_EQ(checkpoint.find("a")->bytes.data(), place);
  EXPECT_EQ(checkpoint.find("a")->bytes[0], std::byte{'x'});
}

TEST(checkpoint, a_directory_holds_either_an_index_or_a_single_file) {
  const Directory directory;
  EXPECT_EQ(directory.refused(),
            ": expected either model.safetensors.index.json or model.safetensors, found neither");
  directory.write_tensors("model.safetensors", {"a"});
  directory.write_index(R"("a":"model.safetensors")");
  EXPECT_EQ(directory.refused(),
            ": expected either model.safetensors.index.json or model.safetensors, found both");
}

TEST(checkpoint, a_missing_directory_is_refused) {
  const TemporaryDirectory directory;
  const auto absent = directory.path() / "absent";
  EXPECT_EQ(refusal([&] { open(absent); }), absent.string() + ": no such directory");
  const auto file = directory.write("file", "");
  EXPECT_EQ(refusal([&] { open(file); }),
            file.string() + ": expected the directory of a model, found a file");
}

TEST(checkpoint, config_json_is_required) {
  const Directory directory;
  directory.write_tensors("model.safetensors", {"a"});
  std::filesystem::remove(directory.path() / "config.json");
  EXPECT_EQ(directory.refused(), "/config.json: No such file or directory");
}

TEST(checkpoint, tokenizer_json_is_read_on_demand) {
  const Directory directory;
  directory.write_tensors("model.safetensors", {"a"});
  const Checkpoint checkpoint = open(directory.path());
  EXPECT_EQ(refusal([&] { checkpoint.tokenizer_text(); }),
            checkpoint.tokenizer_path().string() + ": No such file or directory");
  directory.write("tokenizer.json", "{\"version\":\"1.0\"}");
  EXPECT_EQ(checkpoint.tokenizer_text(), "{\"version\":\"1.0\"}");
}

TEST(checkpoint, a_shard_that_is_gone_is_refused) {
  const Directory directory;
  directory.write_index(R"("a":"1","b":"2")");
  directory.write_tensors("1", {"a"});
  EXPECT_EQ(directory.refused(), "/model.safetensors.index.json: shard 2 does not exist");
}

TEST(checkpoint, a_shard_that_the_system_cannot_look_up_is_refused) {
  const Directory directory;
  const std::string name(300, 'x');
  directory.write_index("\"a\":\"" + name + "\"");
  EXPECT_EQ(directory.refused(), "/" + name + ": File name too long");
}

TEST(checkpoint, a_tensor_that_its_shard_lacks_is_refused) {
  const Directory directory;
  directory.write_index(R"("a":"1","b":"1")");
  directory.write_tensors("1", {"a"});
  EXPECT_EQ(directory.refused(), "/model.safetensors.index.json: tensor \"b\" is not in its shard 1");
}

TEST(checkpoint, a_tensor_that_the_index_lacks_is_refused) {
  const Directory directory;
  directory.write_index(R"("a":"1")");
  directory.write_tensors("1", {"a", "b"});
  EXPECT_EQ(directory.refused(), "/1: tensor \"b\" is not in model.safetensors.index.json");
}

TEST(checkpoint, a_tensor_in_two_shards_is_refused) {
  const Directory directory;
  directory.write_index(R"("a":"1","b":"2")");
  directory.write_tensors("1", {"a"});
  directory.write_tensors("2", {"a", "b"});
  EXPECT_EQ(directory.refused(), "/2: tensor \"a\": model.safetensors.index.json places it in 1");
}

TEST(checkpoint, a_broken_shard_is_refused_under_its_name) {
  const Directory directory;
  directory.write_index(R"("a":"1")");
  directory.write("1", "");
  EXPECT_EQ(directory.refused(), "/1: expected a safetensors file, found an empty file");
}

// DeepSeek-V3.2 has 92,425 tensors in 163 shards. Quadratic work would be 10^9 to 10^10 comparisons of
// strings.
TEST(checkpoint, the_size_of_a_real_model_opens_in_seconds) {
  const Directory directory;
  std::vector<std::vector<std::string>> shards(163);
  std::string map;
  for (int i = 0; i < 92425; ++i) {
    const std::string name = fmt::format("model.layers.{}.mlp.experts.{}.weight", i % 61, i);
    map += fmt::format("{}\"{}\":\"{}\"", i == 0 ? "" : ",", name, i % shards.size());
    shards[i % shards.size()].push_back(name);
  }
  for (size_t i = 0; i < shards.size(); ++i) directory.write_tensors(std::to_string(i), shards[i]);
  directory.write_index(map);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(open(directory.path()).tensors().size(), 92425u);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

// The figures below were read from the files by other means.
TEST(checkpoint, the_tiny_model_reads_as_it_was_written) {
  const Checkpoint checkpoint = open(std::string(test::kSourceDir) + "/models/tiny-v32");
  EXPECT_THAT(checkpoint.shard_names(),
              ElementsAre("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"));
  EXPECT_EQ(checkpoint.tensors().size(), 261u);
  EXPECT_EQ(checkpoint.total_bytes(), 14825100);
  EXPECT_EQ(checkpoint.config_text().size(), 1449u);
  EXPECT_EQ(checkpoint.tokenizer_text().size(), 122981u);
  for (const TensorView& tensor : checkpoint.tensors()) EXPECT_TRUE(aligned(tensor)) << tensor.name;

  const TensorView* const embedding = checkpoint.find("model.embed_tokens.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(describe(*embedding), "BF16 [2048, 384]");
  EXPECT_EQ(embedding->bytes[0], std::byte{0x16});
  EXPECT_EQ(embedding->bytes[1], std::byte{0x3e});
  const TensorView* const bias = checkpoint.find("model.layers.3.mlp.gate.e_score_correction_bias");
  ASSERT_NE(bias, nullptr);
  EXPECT_EQ(describe(*bias), "F32 [8]");
  EXPECT_EQ(f32_values(*bias)[0], 0x1.7df362p-2f);
  EXPECT_EQ(f32_values(*bias)[3], 0x1.79dad2p-2f);
}

}  // namespace
}  // namespace fulgurite::checkpoint
