#include "fulgurite/checkpoint/checkpoint.h"

#include <algorithm>
#include <iterator>
#include <system_error>
#include <utility>

#include "fulgurite/checkpoint/safetensors.h"
#include "fulgurite/checkpoint/shard_index.h"
#include "fulgurite/core/error.h"

namespace fulgurite::checkpoint {
namespace {

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

bool present(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) return false;
  if (error) fail(ErrorKind::kFile, "{}: {}", printable_path(path), error.message());
  return true;
}

void check_directory(const std::filesystem::path& directory) {
  if (!present(directory)) fail(ErrorKind::kFile, "{}: no such directory", printable_path(directory));
  if (std::error_code error; !std::filesystem::is_directory(directory, error))
    fail(ErrorKind::kFile, "{}: expected the directory of a model, found a file", printable_path(directory));
}

std::string read_text(const std::filesystem::path& path) { return std::string(MappedFile(path).text()); }

// Marks the tensors of one shard as seen; each must be there by the index.
void check_shard(const ShardIndex& index, size_t shard, const std::vector<TensorView>& tensors,
                 const std::string& what, std::vector<bool>& seen) {
  for (const TensorView& tensor : tensors) {
    const ShardIndex::Entry* const entry = index.find(tensor.name);
    if (entry == nullptr)
      fail(ErrorKind::kFile, "{}: tensor \"{}\" is not in {}", what, printable(tensor.name), kIndexFile);
    if (entry->shard != shard)
      fail(ErrorKind::kFile, "{}: tensor \"{}\": {} places it in {}", what, printable(tensor.name),
           kIndexFile, printable(index.shards[entry->shard]));
    seen[static_cast<size_t>(entry - index.entries.data())] = true;
  }
}

}  // namespace

Checkpoint::Checkpoint(const std::filesystem::path& directory) : directory_(directory) {
  check_directory(directory);
  const bool sharded = present(directory / kIndexFile);
  const bool single = present(directory / kSingleFile);
  if (sharded == single)
    fail(ErrorKind::kFile, "{}: expected either {} or {}, found {}", printable_path(directory), kIndexFile,
         kSingleFile, sharded ? "both" : "neither");
  config_text_ = read_text(config_path());
  if (sharded) {
    read_shards(directory / kIndexFile);
  } else {
    shard_names_.emplace_back(kSingleFile);
    tensors_ = read_file(shard_names_.front());
  }
  std::sort(tensors_.begin(), tensors_.end(),
            [](const TensorView& a, const TensorView& b) { return a.name < b.name; });
  for (const TensorView& tensor : tensors_) total_bytes_ += static_cast<int64_t>(tensor.bytes.size());
}

std::vector<TensorView> Checkpoint::read_file(const std::string& name) {
  const std::filesystem::path path = directory_ / name;
  const MappedFile& file = files_.emplace_back(path);
  return parse_header(file.bytes(), printable_path(path)).tensors;
}

void Checkpoint::read_shards(const std::filesystem::path& index_path) {
  const ShardIndex index = parse_shard_index(MappedFile(index_path).text(), printable_path(index_path));
  std::vector<bool> seen(index.entries.size(), false);
  tensors_.reserve(index.entries.size());
  for (size_t shard = 0; shard < index.shards.size(); ++shard) {
    const std::filesystem::path path = directory_ / index.shards[shard];
    if (!present(path))
      fail(ErrorKind::kFile, "{}: shard {} does not exist", printable_path(index_path),
           printable(index.shards[shard]));
    std::vector<TensorView> tensors = read_file(index.shards[shard]);
    check_shard(index, shard, tensors, printable_path(path), seen);
    std::move(tensors.begin(), tensors.end(), std::back_inserter(tensors_));
  }
  const auto missing = std::find(seen.begin(), seen.end(), false);
  if (missing != seen.end()) {
    const ShardIndex::Entry& entry = index.entries[static_cast<size_t>(missing - seen.begin())];
    fail(ErrorKind::kFile, "{}: tensor \"{}\" is not in its shard {}", printable_path(index_path),
         printable(entry.tensor), printable(index.shards[entry.shard]));
  }
  shard_names_ = index.shards;
}

const TensorView* Checkpoint::find(std::string_view name) const {
  const auto at =
      std::lower_bound(tensors_.begin(), tensors_.end(), name,
                       [](const TensorView& tensor, std::string_view key) { return tensor.name < key; });
  return at == tensors_.end() || at->name != name ? nullptr : &*at;
}

std::string Checkpoint::tokenizer_text() const { return read_text(tokenizer_path()); }

Checkpoint open(const std::filesystem::path& directory) { return Checkpoint(directory); }

}  // namespace fulgurite::checkpoint
