#pragma once
// Writes a safetensors file that every reader of the format takes, ours included. Entries stand by falling
// alignment, then by name, and the header is padded with spaces to a multiple of 8, so every tensor is
// aligned in the file. The file appears under its name when it is complete (written beside it, then renamed),
// or not at all.

#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "fulgurite/checkpoint/tensor_view.h"

namespace fulgurite::checkpoint {

// Throws Error{kFile}: a name that stands twice or is no UTF-8, bytes that disagree with dtype and shape, a
// header above the format's limit, or whatever the system says.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace fulgurite::checkpoint
