#pragma once
// A file, mapped read-only for as long as this object lives; moving the object leaves the bytes where they
// are. An empty file is an empty span. Whoever shortens the file meanwhile ends the process (SIGBUS): replace
// files by rename.

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

namespace fulgurite::checkpoint {

class MappedFile {
 public:
  // Throws Error{kFile} for what is missing, unreadable or not a regular file.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// The path as it stands in messages.
std::string printable_path(const std::filesystem::path& path);

}  // namespace fulgurite::checkpoint
