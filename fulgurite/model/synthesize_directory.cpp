#include "fulgurite/model/synthesize_directory.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "fulgurite/checkpoint/mapped_file.h"
#include "fulgurite/core/error.h"

namespace fulgurite::model {
namespace {

using checkpoint::printable_path;
namespace fs = std::filesystem;

// Says that a run writes into the directory: of two runs one makes it.
constexpr const char* kLock = "synthesis.partial";

[[noreturn]] void system_failed(const fs::path& path, const std::error_code& error) {
  fail(ErrorKind::kFile, "{}: {}", printable_path(path), error.message());
}

[[noreturn]] void refuse_partial(const fs::path& directory, const fs::path& name) {
  fail(ErrorKind::kFile,
       "{}: found {}: another run writes here, or was killed; if none does, remove what is in it first",
       printable_path(directory), printable_path(name));
}

// Throws unless the directory holds nothing but `allowed`.
void require_empty(const fs::path& directory, const fs::path& allowed = {}) {
  std::error_code error;
  bool empty = true;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    const fs::path name = entry->path().filename();
    if (name == allowed) continue;
    if (name.extension() == ".partial") refuse_partial(directory, name);
    empty = false;
  }
  if (error) system_failed(directory, error);
  if (!empty) fail(ErrorKind::kFile, "{}: expected an empty directory", printable_path(directory));
}

// Changes nothing.
void require_room(const fs::path& directory, int64_t bytes) {
  std::error_code error;
  fs::path there = directory;
  while (!fs::exists(there, error) && there != there.root_path()) there = there.parent_path();
  if (!fs::is_directory(there, error)) system_failed(there, std::make_error_code(std::errc::not_a_directory));
  if (there == directory) require_empty(directory);
  const fs::space_info space = fs::space(there, error);
  if (!error && static_cast<int64_t>(space.available) < bytes)
    fail(ErrorKind::kFile, "{}: {} bytes are needed, {} are free", printable_path(directory), bytes,
         space.available);
}

}  // namespace

OutputDirectory::OutputDirectory(const fs::path& directory, int64_t bytes) {
  if (directory.empty()) fail(ErrorKind::kFile, "expected a directory, found no name");
  directory_ = fs::absolute(directory);
  require_room(directory_, bytes);
  try {
    make(directory_);
    lock();
    require_empty(directory_, kLock);
  } catch (...) {
    unmake();
    throw;
  }
}

OutputDirectory::~OutputDirectory() { unmake(); }

void OutputDirectory::complete() {
  ::unlink((directory_ / kLock).c_str());
  made_.clear();
}

void OutputDirectory::unmake() {
  std::error_code ignored;  // a directory that is not empty is another's too
  for (; !made_.empty(); made_.pop_back()) fs::remove(made_.back(), ignored);
}

fs::path OutputDirectory::file(const std::string& name) { return made_.emplace_back(directory_ / name); }

void OutputDirectory::make(const fs::path& directory) {
  std::error_code error;
  if (directory.has_relative_path() && !fs::exists(directory, error)) make(directory.parent_path());
  if (fs::create_directory(directory, error)) made_.push_back(directory);
  if (error) system_failed(directory, error);
}

void OutputDirectory::lock() {
  const fs::path path = directory_ / kLock;
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file < 0 && errno == EEXIST) refuse_partial(directory_, kLock);
  if (file < 0) system_failed(directory_, {errno, std::generic_category()});
  ::close(file);
  made_.push_back(path);
}

}  // namespace fulgurite::model
