#pragma once
// Named tensors in the forms in which other engines leave them: safetensors, NumPy's .npy (named as the file)
// and .npz, or a directory of such files. Bytes are viewed where they lie, but for deflated ones.
// docs/formats/dump.md lists what is read.

#include <filesystem>
#include <list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/checkpoint/safetensors.h"

namespace fulgurite::checkpoint {

class TensorFiles {
 public:
  // Throws Error{kFile} for what cannot be read, and for a name that stands twice.
  static TensorFiles open(const std::filesystem::path& path);

  std::span<const TensorView> tensors() const { return tensors_; }  // by name
  const TensorView* find(std::string_view name) const;              // nullptr: there is none
  const std::filesystem::path& path() const { return path_; }

 private:
  explicit TensorFiles(std::filesystem::path path) : path_(std::move(path)) {}
  void add(const std::filesystem::path& file);
  void add_npz(const MappedFile& file, const std::string& what);
  void sort();

  std::filesystem::path path_;
  std::list<SafetensorsFile> safetensors_;
  std::list<MappedFile> mapped_;
  std::list<std::vector<std::byte>> inflated_;
  std::vector<TensorView> tensors_;
};

// The array of a .npy file: its dtype, shape and bytes, without a name. `what` names it in messages. C order
// alone; '<V2' is what NumPy calls bfloat16. Throws Error{kFile}.
TensorView parse_npy(std::span<const std::byte> file, const std::string& what);

}  // namespace fulgurite::checkpoint
