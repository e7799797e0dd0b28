#pragma once
// The directory that a synthesis is written into: one run at a time, and nothing is left of one that fails.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace fulgurite::model {

class OutputDirectory {
 public:
  // Makes `directory`, and its parents, unless it is there and empty. Throws Error{kFile}, with nothing made,
  // if the file system has no room for `bytes`, if there is anything in it, or if another run writes into it.
  OutputDirectory(const std::filesystem::path& directory, int64_t bytes);
  OutputDirectory(const OutputDirectory&) = delete;
  OutputDirectory& operator=(const OutputDirectory&) = delete;
  // Unless complete() was called, every file() is removed, and the directories that were made.
  ~OutputDirectory();

  // The path of a file that is about to be written.
  std::filesystem::path file(const std::string& name);
  void complete();

 private:
  void make(const std::filesystem::path& directory);
  void lock();
  void unmake();

  std::filesystem::path directory_;
  std::vector<std::filesystem::path> made_;  // in this order; the lock is among them
};

}  // namespace fulgurite::model
