#include "fulgurite/checkpoint/checkpoint_writer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "fulgurite/checkpoint/mapped_file.h"
#include "fulgurite/core/assert.h"
#include "fulgurite/core/error.h"
#include "fulgurite/core/json.h"

namespace fulgurite::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLock = "fulgurite-writes-here.lock";
constexpr const char* kIndex = "model.safetensors.index.json";

[[noreturn]] void system_failed(const fs::path& path, std::string_view what) {
  const int code = errno;
  fail(ErrorKind::kFile, "{}: {}: {}", printable_path(path), what, std::generic_category().message(code));
}

class OpenFile {
 public:
  OpenFile(const fs::path& path, int flags)
      : path_(path), descriptor_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (descriptor_ < 0) system_failed(path, "cannot be opened");
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  void write_at(int64_t offset, std::span<const std::byte> bytes) const {
    while (!bytes.empty()) {
      const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), offset);
      if (written < 0 && errno != EINTR) system_failed(path_, "cannot be written");
      if (written <= 0) continue;
      bytes = bytes.subspan(static_cast<size_t>(written));
      offset += written;
    }
  }
  void resize(int64_t bytes) const {
    if (::ftruncate(descriptor_, bytes) != 0) system_failed(path_, "cannot be written");
  }
  void sync() const {
    if (::fsync(descriptor_) != 0) system_failed(path_, "cannot be brought to the disk");
  }
  bool lock() const { return ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0; }

 private:
  fs::path path_;
  int descriptor_;
};

fs::path parent_of(const fs::path& path) {
  return path.parent_path().empty() ? fs::path(".") : path.parent_path();
}

fs::path without_trailing_slash(const fs::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

}  // namespace

// OUT.partial, held by a lock that ends with the process.
class CheckpointWriter::Directory {
 public:
  explicit Directory(const fs::path& out) : out_(out), partial_(out) {
    partial_ += ".partial";
    std::error_code ignored;
    if (fs::symlink_status(out_, ignored).type() != fs::file_type::not_found)
      fail(ErrorKind::kFile, "{}: exists already; nothing is overwritten", printable_path(out_));
    const bool created = fs::create_directory(partial_, ignored);
    if (!created && !fs::exists(partial_, ignored))
      system_failed(parent_of(out_), "no directory can be made in it");
    // Empty: it was stopped before it had the lock.
    if (!created && !fs::exists(partial_ / kLock, ignored) && !fs::is_empty(partial_, ignored))
      fail(ErrorKind::kFile, "{}: exists, and not as what a stopped conversion left; remove it",
           printable_path(partial_));
    lock_ = std::make_unique<OpenFile>(partial_ / kLock, O_RDWR | O_CREAT);
    if (!lock_->lock()) fail(ErrorKind::kFile, "{}: another process writes it", printable_path(partial_));
    if (!clear())
      fail(ErrorKind::kFile, "{}: what a stopped conversion left cannot be removed",
           printable_path(partial_));
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() {
    if (committed_) return;
    std::error_code ignored;
    clear();  // the lock last: it says whose the rest is
    fs::remove_all(partial_, ignored);
  }

  fs::path operator/(const std::string& name) const { return partial_ / name; }

  void commit() {
    for (const auto& entry : fs::directory_iterator(partial_)) OpenFile(entry.path(), O_RDONLY).sync();
    OpenFile(partial_, O_RDONLY | O_DIRECTORY).sync();
    if (::renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, out_.c_str(), RENAME_NOREPLACE) != 0)
      system_failed(out_, "the finished directory cannot be given this name");
    committed_ = true;
    ::unlink((out_ / kLock).c_str());
    OpenFile(parent_of(out_), O_RDONLY | O_DIRECTORY).sync();
  }

 private:
  // Removes all but the lock; was that possible?
  bool clear() const {
    std::error_code reading, removing;
    bool removed = true;
    for (fs::directory_iterator entry(partial_, reading), end; entry != end; entry.increment(reading)) {
      if (entry->path().filename() == kLock) continue;
      fs::remove_all(entry->path(), removing);
      removed = removed && !removing;
    }
    return removed && !reading;
  }

  fs::path out_;
  fs::path partial_;
  std::unique_ptr<OpenFile> lock_;
  bool committed_ = false;
};

CheckpointWriter::CheckpointWriter(const fs::path& out, std::vector<PlannedTensor> entries,
                                   int64_t shard_bytes)
    : out_(without_trailing_slash(out)) {
  fill_shards(std::move(entries), shard_bytes);
  require_space();
  directory_ = std::make_unique<Directory>(out_);
  create_shards();
}

CheckpointWriter::~CheckpointWriter() = default;

void CheckpointWriter::fill_shards(std::vector<PlannedTensor> entries, int64_t shard_bytes) {
  int64_t filled = 0;
  for (PlannedTensor& entry : entries) {
    const int64_t bytes = byte_size(entry.dtype, entry.shape, entry.name);
    if (shards_.empty() || (filled > 0 && filled + bytes > shard_bytes)) {
      shards_.emplace_back();
      filled = 0;
    }
    filled += bytes;
    total_bytes_ += bytes;
    shards_.back().entries.push_back(std::move(entry));
  }
  for (size_t s = 0; s < shards_.size(); ++s) {
    Shard& shard = shards_[s];
    shard.name = fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards_.size());
    shard.layout = lay_out(shard.entries, {{"format", "pt"}}, printable_path(out_ / shard.name));
    for (size_t i = 0; i < shard.entries.size(); ++i) {
      const PlannedTensor& entry = shard.entries[i];
      places_.push_back(
          {entry.name, s, shard.layout.offsets[i], byte_size(entry.dtype, entry.shape, entry.name), false});
    }
  }
  std::ranges::sort(places_, {}, &Place::name);
  const auto twice = std::ranges::adjacent_find(places_, {}, &Place::name);
  if (twice != places_.end())
    fail(ErrorKind::kFile, "{}: tensor \"{}\" stands twice", printable_path(out_), printable(twice->name));
}

void CheckpointWriter::require_space() const {
  struct statvfs disk {};
  if (::statvfs(parent_of(out_).c_str(), &disk) != 0) system_failed(parent_of(out_), "cannot be written to");
  const auto free = static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
  int64_t needed = 64 << 20;  // index, tokenizer, what the file system keeps of its own
  for (const Shard& shard : shards_) needed += shard.layout.bytes;
  const auto gib = [](int64_t bytes) { return static_cast<double>(bytes) / (int64_t{1} << 30); };
  if (needed > free)
    fail(ErrorKind::kFile, "{}: needs {:.2f} GiB, the disk has {:.2f} GiB free", printable_path(out_),
         gib(needed), gib(free));
}

void CheckpointWriter::create_shards() {
  for (const Shard& shard : shards_) {
    const OpenFile file(*directory_ / shard.name, O_WRONLY | O_CREAT | O_EXCL);
    file.resize(shard.layout.bytes);
    file.write_at(0, std::as_bytes(std::span(shard.layout.head)));
  }
}

void CheckpointWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  const auto at = std::ranges::lower_bound(places_, name, {}, &Place::name);
  FULGURITE_ASSERT(at != places_.end() && at->name == name && !at->written, "tensor {} was not announced",
                   name);
  FULGURITE_ASSERT(static_cast<int64_t>(bytes.size()) == at->bytes, "{}: {} bytes, announced were {}", name,
                   bytes.size(), at->bytes);
  OpenFile(*directory_ / shards_[at->shard].name, O_WRONLY).write_at(at->offset, bytes);
  at->written = true;
  written_bytes_ += at->bytes;
}

void CheckpointWriter::write_file(const std::string& name, std::string_view text) {
  OpenFile(*directory_ / name, O_WRONLY | O_CREAT | O_EXCL).write_at(0, std::as_bytes(std::span(text)));
}

std::string CheckpointWriter::index_text() const {
  Json map = Json::object();
  for (const Place& place : places_) map[std::string(place.name)] = shards_[place.shard].name;
  return Json{{"metadata", {{"total_size", total_bytes_}}}, {"weight_map", map}}.dump(2) + "\n";
}

void CheckpointWriter::commit() {
  for (const Place& place : places_)
    FULGURITE_ASSERT(place.written, "tensor {} was never written", place.name);
  write_file(kIndex, index_text());
  directory_->commit();
}

}  // namespace fulgurite::checkpoint
