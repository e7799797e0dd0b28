#include "fulgurite/checkpoint/checkpoint.h"

#include <algorithm>
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

// Reads what the directory's files say into a survey.
class Surveyor {
 public:
  explicit Surveyor(const std::filesystem::path& directory) : directory_(directory) {
    check_directory(directory);
    survey_.directory = directory;
  }

  Survey read() {
    const bool sharded = present(directory_ / kIndexFile);
    const bool single = present(directory_ / kSingleFile);
    if (sharded == single)
      fail(ErrorKind::kFile, "{}: expected either {} or {}, found {}", printable_path(directory_), kIndexFile,
           kSingleFile, sharded ? "both" : "neither");
    survey_.config_text = read_text(survey_.config_path());
    if (sharded)
      read_shards(directory_ / kIndexFile);
    else
      read_single();
    find_stray_shards();
    std::stable_sort(survey_.tensors.begin(), survey_.tensors.end(),
                     [](const TensorView& a, const TensorView& b) { return a.name < b.name; });
    return std::move(survey_);
  }

 private:
  void add(ProblemKind kind, const std::string& subject, std::string message) {
    survey_.problems.push_back({kind, subject, std::move(message)});
  }

  // The tensors of one file; none where it cannot be read.
  std::vector<TensorView> read_file(const std::string& name) {
    const std::filesystem::path path = directory_ / name;
    try {
      MappedFile file(path);
      std::vector<TensorView> tensors = parse_header(file.bytes(), printable_path(path)).tensors;
      survey_.files.push_back(std::move(file));
      return tensors;
    } catch (const Error& error) {
      add(ProblemKind::kUnreadableShard, name, error.what());
      unreadable_ = true;
      return {};
    }
  }

  void read_single() {
    survey_.shard_names.emplace_back(kSingleFile);
    survey_.tensors = read_file(survey_.shard_names.front());
  }

  void read_shards(const std::filesystem::path& index_path) {
    const ShardIndex index = parse_shard_index(MappedFile(index_path).text(), printable_path(index_path));
    std::vector<bool> seen(index.entries.size(), false);
    survey_.shard_names = index.shards;
    survey_.tensors.reserve(index.entries.size());
    for (size_t shard = 0; shard < index.shards.size(); ++shard) {
      unreadable_ = false;
      read_shard(index, shard, seen);
      if (unreadable_) leave_out(index, shard, seen);
    }
    for (size_t i = 0; i < seen.size(); ++i) {
      const ShardIndex::Entry& entry = index.entries[i];
      if (seen[i]) continue;
      survey_.unread.push_back(entry.tensor);
      add(ProblemKind::kNotInShard, entry.tensor,
          fmt::format("{}: tensor \"{}\" is not in its shard {}", printable_path(index_path),
                      printable(entry.tensor), printable(index.shards[entry.shard])));
    }
    std::sort(survey_.unread.begin(), survey_.unread.end());
  }

  void read_shard(const ShardIndex& index, size_t shard, std::vector<bool>& seen) {
    const std::string& name = index.shards[shard];
    if (!present(directory_ / name)) {
      add(ProblemKind::kNoShard, name,
          fmt::format("{}: shard {} does not exist", printable_path(directory_ / kIndexFile),
                      printable(name)));
      unreadable_ = true;
      return;
    }
    for (TensorView& tensor : read_file(name)) {
      check_place(index, shard, tensor.name, seen);
      survey_.tensors.push_back(std::move(tensor));
    }
  }

  // Marks the tensor as seen; it must be here by the index.
  void check_place(const ShardIndex& index, size_t shard, const std::string& tensor,
                   std::vector<bool>& seen) {
    const ShardIndex::Entry* const entry = index.find(tensor);
    if (entry != nullptr && entry->shard == shard) {
      seen[static_cast<size_t>(entry - index.entries.data())] = true;
      return;
    }
    const std::string what =
        fmt::format("{}: tensor \"{}\"", printable_path(directory_ / index.shards[shard]), printable(tensor));
    if (entry == nullptr)
      add(ProblemKind::kNotListed, tensor, fmt::format("{} is not in {}", what, kIndexFile));
    else
      add(ProblemKind::kElsewhere, tensor,
          fmt::format("{}: {} places it in {}", what, kIndexFile, printable(index.shards[entry->shard])));
  }

  // What an unreadable shard holds is not missing from it besides.
  void leave_out(const ShardIndex& index, size_t shard, std::vector<bool>& seen) {
    for (size_t i = 0; i < seen.size(); ++i) {
      if (index.entries[i].shard != shard) continue;
      survey_.unread.push_back(index.entries[i].tensor);
      seen[i] = true;
    }
  }

  void find_stray_shards() {
    std::vector<std::string> stray;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      const std::string name = entry.path().filename();
      const bool known = std::binary_search(survey_.shard_names.begin(), survey_.shard_names.end(), name);
      if (entry.path().extension() == ".safetensors" && !known) stray.push_back(name);
    }
    std::sort(stray.begin(), stray.end());
    for (const std::string& name : stray)
      add(ProblemKind::kStrayShard, name,
          fmt::format("{}: no index names this file", printable_path(directory_ / name)));
  }

  std::filesystem::path directory_;
  Survey survey_;
  bool unreadable_ = false;
};

}  // namespace

Survey survey(const std::filesystem::path& directory) { return Surveyor(directory).read(); }

const TensorView* find(std::span<const TensorView> tensors, std::string_view name) {
  const auto at =
      std::lower_bound(tensors.begin(), tensors.end(), name,
                       [](const TensorView& tensor, std::string_view key) { return tensor.name < key; });
  return at == tensors.end() || at->name != name ? nullptr : &*at;
}

Checkpoint::Checkpoint(Survey survey) : survey_(std::move(survey)) {
  for (const Problem& problem : survey_.problems)
    if (problem.kind != ProblemKind::kStrayShard) throw Error(ErrorKind::kFile, problem.message);
  for (const TensorView& tensor : survey_.tensors) total_bytes_ += static_cast<int64_t>(tensor.bytes.size());
}

std::string Checkpoint::tokenizer_text() const { return read_text(tokenizer_path()); }

Checkpoint open(const std::filesystem::path& directory) { return Checkpoint(survey(directory)); }

}  // namespace fulgurite::checkpoint
