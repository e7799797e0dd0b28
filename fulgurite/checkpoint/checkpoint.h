#pragma once
// A directory with config.json and the tensors of a model: model.safetensors, or model.safetensors.index.json
// and its shards; exactly one of the two. Every tensor has one name and one place, index and shards agree in
// both directions. Tensors view the mapped files: nothing is copied, and they live as long as the checkpoint,
// also when it is moved.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/checkpoint/mapped_file.h"
#include "fulgurite/checkpoint/tensor_view.h"

namespace fulgurite::checkpoint {

class Checkpoint {
 public:
  Checkpoint(Checkpoint&&) noexcept = default;
  Checkpoint& operator=(Checkpoint&&) noexcept = default;

  std::span<const TensorView> tensors() const { return tensors_; }  // sorted by name
  const TensorView* find(std::string_view name) const;              // nullptr: there is none
  int64_t total_bytes() const { return total_bytes_; }              // of all tensors

  const std::filesystem::path& directory() const { return directory_; }
  const std::vector<std::string>& shard_names() const { return shard_names_; }  // file names, sorted
  const std::string& config_text() const { return config_text_; }
  std::filesystem::path config_path() const { return directory_ / "config.json"; }
  std::string tokenizer_text() const;  // reads it now; throws Error{kFile}
  std::filesystem::path tokenizer_path() const { return directory_ / "tokenizer.json"; }

 private:
  friend Checkpoint open(const std::filesystem::path& directory);
  explicit Checkpoint(const std::filesystem::path& directory);
  void read_shards(const std::filesystem::path& index_path);
  std::vector<TensorView> read_file(const std::string& name);

  std::filesystem::path directory_;
  std::string config_text_;
  std::vector<std::string> shard_names_;
  std::vector<MappedFile> files_;
  std::vector<TensorView> tensors_;
  int64_t total_bytes_ = 0;
};

// Throws Error{kFile}.
Checkpoint open(const std::filesystem::path& directory);

}  // namespace fulgurite::checkpoint
