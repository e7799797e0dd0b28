#pragma once
// Reads one safetensors file: named tensors over mapped bytes, nothing copied. docs/formats/safetensors.md
// lists the rules; a file that breaks one is refused as a whole.
//
// That tensors lie without overlap and without holes, and that the last one ends with the file, is the
// format's own rule. Source: huggingface/safetensors, README "Format" and safetensors/src/tensor.rs
// (Metadata::validate, SafeTensors::read_metadata), commit 24b0b28.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/checkpoint/mapped_file.h"
#include "fulgurite/checkpoint/tensor_view.h"

namespace fulgurite::checkpoint {

inline constexpr uint64_t kLargestHeaderBytes = 100'000'000;  // the format's own limit

// What a header says; the tensors stand in the order of their bytes and view the file that was parsed.
struct Header {
  std::map<std::string, std::string> metadata;
  std::vector<TensorView> tensors;
};

// `file` is the whole file, `what` its name in messages. Throws Error{kFile}.
Header parse_header(std::span<const std::byte> file, const std::string& what);

class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::filesystem::path& path);

  std::span<const TensorView> tensors() const { return header_.tensors; }  // in the order of their bytes
  const TensorView* find(std::string_view name) const;                     // nullptr: there is none
  const TensorView& require(std::string_view name) const;  // throws Error{kFile}: there is none
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  const std::filesystem::path& path() const { return path_; }

 private:
  SafetensorsFile(const std::filesystem::path& path, MappedFile file);

  std::filesystem::path path_;
  MappedFile file_;
  Header header_;
  std::vector<size_t> by_name_;  // indices of tensors, sorted by name
};

}  // namespace fulgurite::checkpoint
