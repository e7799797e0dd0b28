#pragma once
// Writes a safetensors file that every reader of the format takes, ours included. Entries stand by falling
// alignment, then by name, and the header is padded with spaces to a multiple of 8, so every tensor is
// aligned in the file. The file appears under its name when it is complete (written beside it, then renamed),
// or not at all.

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "fulgurite/checkpoint/tensor_view.h"

namespace fulgurite::checkpoint {

// A tensor without its bytes.
struct TensorEntry {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
};

// Where everything stands in a file of these tensors.
struct FileLayout {
  std::string head;           // the header with its length before it
  std::vector<size_t> order;  // of the entries in the file
  std::vector<int64_t>
      offsets;        // of each entry's bytes from the begin of the file, in the order of `entries`
  int64_t bytes = 0;  // of the whole file
};

// Throws Error{kFile}: a name that stands twice or is no UTF-8, or a header above the format's limit. `what`
// is the file's name in messages.
FileLayout lay_out(std::span<const TensorEntry> entries, const std::map<std::string, std::string>& metadata,
                   const std::string& what);

// Throws Error{kFile}: a name that stands twice or is no UTF-8, bytes that disagree with dtype and shape, a
// header above the format's limit, or whatever the system says.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace fulgurite::checkpoint
