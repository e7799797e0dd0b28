#pragma once
// Writes a checkpoint of shards, tensor by tensor and in any order: a directory that appears under its name
// when everything is written and on the disk, or not at all. Until then it is OUT.partial; what a killed
// process left there is taken over by the next one that writes the same OUT.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/checkpoint/writer.h"

namespace fulgurite::checkpoint {

class CheckpointWriter {
 public:
  // Shards are filled in the order of `entries`, each up to `shard_bytes` of tensors, or one larger tensor.
  // Throws Error{kFile}: `out` exists, another process writes it, or the disk has no room.
  CheckpointWriter(const std::filesystem::path& out, std::vector<PlannedTensor> entries, int64_t shard_bytes);
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;
  ~CheckpointWriter();  // takes away what was not committed

  int64_t total_bytes() const { return total_bytes_; }
  int64_t written_bytes() const { return written_bytes_; }
  size_t shards() const { return shards_.size(); }

  // All bytes of one of the entries, once. Throws Error{kFile}.
  void write(std::string_view name, std::span<const std::byte> bytes);
  // A further file of the directory.
  void write_file(const std::string& name, std::string_view text);
  // Writes the index, brings everything to the disk, gives the directory its name. Every entry was written.
  void commit();

 private:
  class Directory;
  struct Shard {
    std::string name;
    std::vector<PlannedTensor> entries;
    FileLayout layout;
  };
  struct Place {
    std::string_view name;
    size_t shard = 0;
    int64_t offset = 0;
    int64_t bytes = 0;
    bool written = false;
  };

  void fill_shards(std::vector<PlannedTensor> entries, int64_t shard_bytes);
  void create_shards();
  void require_space() const;
  std::string index_text() const;

  std::filesystem::path out_;
  std::vector<Shard> shards_;
  std::vector<Place> places_;  // sorted by name
  int64_t total_bytes_ = 0;
  int64_t written_bytes_ = 0;
  std::unique_ptr<Directory> directory_;
};

}  // namespace fulgurite::checkpoint
