#pragma once
// A directory with config.json and the tensors of a model: model.safetensors, or model.safetensors.index.json
// and its shards; exactly one of the two. Tensors view the mapped files: nothing is copied, and they live as
// long as the survey or checkpoint, also when it is moved.
//
// A survey holds whatever can be read and what is wrong with the rest. A checkpoint has nothing wrong: every
// tensor has one name and one place, index and shards agree in both directions.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/checkpoint/mapped_file.h"
#include "fulgurite/checkpoint/tensor_view.h"

namespace fulgurite::checkpoint {

enum class ProblemKind {
  kNoShard,          // in the index, not on the disk
  kUnreadableShard,  // its header is no safetensors header, or the file is truncated
  kNotListed,        // a tensor of a shard that the index does not name
  kElsewhere,        // a tensor of a shard that the index places in another one
  kNotInShard,       // a tensor that its shard does not hold
  kStrayShard,       // a *.safetensors file that the index does not name: nothing reads it
};
struct Problem {
  ProblemKind kind = ProblemKind::kNoShard;
  std::string subject;  // the tensor's or the shard's name
  std::string message;  // one line, begins with the path of the file
};

struct Survey {
  std::filesystem::path directory;
  std::string config_text;
  std::vector<std::string> shard_names;  // file names, sorted; of the index, or the single file
  std::vector<MappedFile> files;
  std::vector<TensorView> tensors;  // sorted by name; a name may stand twice
  std::vector<Problem> problems;
  std::vector<std::string> unread;  // sorted: tensors that the index names and that could not be read

  std::filesystem::path config_path() const { return directory / "config.json"; }
};

// Throws Error{kFile} where there is nothing to survey: no directory, no config.json, no index that can be
// read.
Survey survey(const std::filesystem::path& directory);

// The tensor of this name among tensors sorted by name; nullptr: there is none.
const TensorView* find(std::span<const TensorView> tensors, std::string_view name);

class Checkpoint {
 public:
  // Throws Error{kFile} with the first problem, stray shards left aside.
  explicit Checkpoint(Survey survey);
  Checkpoint(Checkpoint&&) noexcept = default;
  Checkpoint& operator=(Checkpoint&&) noexcept = default;

  std::span<const TensorView> tensors() const { return survey_.tensors; }  // sorted by name
  const TensorView* find(std::string_view name) const { return checkpoint::find(survey_.tensors, name); }
  int64_t total_bytes() const { return total_bytes_; }  // of all tensors

  const std::filesystem::path& directory() const { return survey_.directory; }
  const std::vector<std::string>& shard_names() const { return survey_.shard_names; }  // file names, sorted
  const std::string& config_text() const { return survey_.config_text; }
  std::filesystem::path config_path() const { return survey_.config_path(); }
  std::string tokenizer_text() const;  // reads it now; throws Error{kFile}
  std::filesystem::path tokenizer_path() const { return directory() / "tokenizer.json"; }

 private:
  Survey survey_;
  int64_t total_bytes_ = 0;
};

// Throws Error{kFile}.
Checkpoint open(const std::filesystem::path& directory);

}  // namespace fulgurite::checkpoint
