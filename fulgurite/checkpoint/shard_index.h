#pragma once
// model.safetensors.index.json: which file of a checkpoint holds which tensor. Of its keys only "weight_map"
// counts; "metadata" and others are not read.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace fulgurite::checkpoint {

struct ShardIndex {
  struct Entry {
    std::string tensor;
    size_t shard = 0;  // index into shards
  };
  std::vector<std::string> shards;  // plain file names, sorted
  std::vector<Entry> entries;       // sorted by tensor

  const Entry* find(std::string_view tensor) const;  // nullptr: there is none
};

// `what` is the file's name in messages. Throws Error{kFile}; a shard's name must be one component of a path.
ShardIndex parse_shard_index(std::string_view text, const std::string& what);

}  // namespace fulgurite::checkpoint
