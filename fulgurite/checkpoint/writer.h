#pragma once
// Writes a safetensors file that every reader of the format takes, ours included. Entries stand by falling
// alignment, then by name, and the header is padded with spaces to a multiple of 8, so every tensor is
// aligned in the file. The file appears under its name when it is complete (written beside it, then renamed),
// or not at all.

#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/checkpoint/tensor_view.h"

namespace fulgurite::checkpoint {

// Throws Error{kFile}: a name that stands twice or is no UTF-8, bytes that disagree with dtype and shape, a
// header above the format's limit, or whatever the system says.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                       const std::map<std::string, std::string>& metadata = {});

// The same of tensors that are made while the file is written, so that none need stand in memory:
// make(i, sink) gives the bytes of tensors[i], in any number of pieces. Tensors are made in the order of the
// file.
struct PlannedTensor {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
};
using Sink = std::function<void(std::span<const std::byte>)>;
void write_safetensors(const std::filesystem::path& path, std::span<const PlannedTensor> tensors,
                       const std::function<void(size_t tensor, const Sink& sink)>& make,
                       const std::map<std::string, std::string>& metadata = {});

// Where everything stands in a file of these tensors, for who writes it in an order of his own.
struct FileLayout {
  std::string head;  // the length of the header and the header
  std::vector<int64_t>
      offsets;        // of each tensor's bytes from the begin of the file, in the order of `tensors`
  int64_t bytes = 0;  // of the whole file
};
// `what` is the file's name in messages. Throws Error{kFile}.
FileLayout lay_out(std::span<const PlannedTensor> tensors, const std::map<std::string, std::string>& metadata,
                   const std::string& what);

// A text file (config.json, an index), complete or not at all. Throws Error{kFile}.
void write_text(const std::filesystem::path& path, std::string_view text);

}  // namespace fulgurite::checkpoint
