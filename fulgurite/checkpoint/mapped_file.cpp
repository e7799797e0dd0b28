#include "fulgurite/checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "fulgurite/core/error.h"

namespace fulgurite::checkpoint {
namespace {

// An open file descriptor; the mapping does not need it afterwards.
class Descriptor {
 public:
  // O_NONBLOCK: a named pipe must be refused, not waited for.
  explicit Descriptor(const std::filesystem::path& path)
      : number_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int number() const { return number_; }

 private:
  int number_;
};

[[noreturn]] void system_failed(const std::filesystem::path& path) {
  fail(ErrorKind::kFile, "{}: {}", printable_path(path), std::generic_category().message(errno));
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  const Descriptor file(path);
  struct stat status {};
  if (file.number() < 0 || fstat(file.number(), &status) != 0) system_failed(path);
  if (S_ISDIR(status.st_mode))
    fail(ErrorKind::kFile, "{}: expected a file, found a directory", printable_path(path));
  if (!S_ISREG(status.st_mode))
    fail(ErrorKind::kFile, "{}: expected a regular file, found a device, pipe or socket",
         printable_path(path));
  if (status.st_size == 0) return;
  const auto size = static_cast<size_t>(status.st_size);
  void* const data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number(), 0);
  if (data == MAP_FAILED) system_failed(path);
  data_ = data;
  size_ = size;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

std::string printable_path(const std::filesystem::path& path) { return printable(path.native(), 1000); }

}  // namespace fulgurite::checkpoint
