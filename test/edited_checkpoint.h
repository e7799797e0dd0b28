#pragma once
// The tiny checkpoint with something changed, written to a directory of its own.

#include <algorithm>
#include <cstring>
#include <fstream>
#include <list>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "fulgurite/checkpoint/writer.h"
#include "test/tiny_model.h"

namespace fulgurite::test {

class EditedCheckpoint {
 public:
  explicit EditedCheckpoint(const std::string& from = kTinyV32)
      : source_(checkpoint::open(from)),
        config(nlohmann::json::parse(source_.config_text())),
        tensors(source_.tensors().begin(), source_.tensors().end()),
        directory_(scratch_file("edited")) {}
  ~EditedCheckpoint() { std::filesystem::remove_all(directory_); }
  EditedCheckpoint(const EditedCheckpoint&) = delete;
  EditedCheckpoint& operator=(const EditedCheckpoint&) = delete;

 private:
  checkpoint::Checkpoint source_;

 public:
  nlohmann::json config;
  std::vector<checkpoint::TensorView> tensors;

  checkpoint::TensorView& at(const std::string& name) {
    const auto found = std::ranges::find(tensors, name, &checkpoint::TensorView::name);
    EXPECT_NE(found, tensors.end()) << name;
    return *found;
  }
  void erase(const std::string& name) {
    EXPECT_EQ(std::erase_if(tensors, [&](const auto& tensor) { return tensor.name == name; }), 1u) << name;
  }
  void rename(const std::string& from, const std::string& to) { at(from).name = to; }

  // Bytes of its own for a tensor; what was there is copied as far as it fits.
  std::span<std::byte> bytes_of(const std::string& name) {
    checkpoint::TensorView& tensor = at(name);
    std::vector<std::byte>& own =
        owned_.emplace_back(static_cast<size_t>(checkpoint::byte_size(tensor.dtype, tensor.shape, name)));
    std::copy_n(tensor.bytes.begin(), std::min(own.size(), tensor.bytes.size()), own.begin());
    tensor.bytes = own;
    return own;
  }
  template <class T>
  std::span<T> values_of(const std::string& name) {
    const std::span<std::byte> bytes = bytes_of(name);
    return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
  void add(const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
    tensors.push_back({name, dtype, shape, {}});
    bytes_of(name);
  }
  // The last layer once more as an MTP layer.
  void add_mtp() {
    config["num_nextn_predict_layers"] = 1;
    const std::string from = "model.layers.3.", to = "model.layers.4.";
    for (size_t i = 0, count = tensors.size(); i < count; ++i) {
      if (!tensors[i].name.starts_with(from)) continue;
      checkpoint::TensorView copy = tensors[i];
      copy.name = to + copy.name.substr(from.size());
      tensors.push_back(copy);
    }
    add(to + "eh_proj.weight", DType::kBF16, {384, 768});
    for (const char* const norm : {"enorm.weight", "hnorm.weight", "shared_head.norm.weight"})
      add(to + norm, DType::kF32, {384});
    for (const char* const table : {"embed_tokens.weight", "shared_head.head.weight"})
      add(to + table, DType::kBF16, {2048, 384});
  }

  // As one file.
  std::string write() const {
    begin();
    checkpoint::write_safetensors(directory_ / "model.safetensors", tensors);
    return directory_;
  }
  // Each tensor in the shard that `shard_of` names; the index says the same.
  template <class ShardOf>
  std::string write_shards(const ShardOf& shard_of) const {
    begin();
    std::map<std::string, std::vector<checkpoint::TensorView>> shards;
    nlohmann::json map;
    for (const checkpoint::TensorView& tensor : tensors) {
      const std::string shard = shard_of(tensor.name);
      shards[shard].push_back(tensor);
      map[tensor.name] = shard;
    }
    for (const auto& [name, held] : shards) checkpoint::write_safetensors(directory_ / name, held);
    write_index(map);
    return directory_;
  }
  void write_index(const nlohmann::json& map) const {
    std::ofstream(directory_ / "model.safetensors.index.json") << nlohmann::json{{"weight_map", map}}.dump();
  }
  std::filesystem::path directory() const { return directory_; }

 private:
  void begin() const {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    std::ofstream(directory_ / "config.json") << config.dump();
  }

  std::filesystem::path directory_;
  std::list<std::vector<std::byte>> owned_;
};

}  // namespace fulgurite::test
