#include "fulgurite/checkpoint/tensor_files.h"

#include <algorithm>

#include "fulgurite/checkpoint/zip.h"
#include "fulgurite/core/error.h"

namespace fulgurite::checkpoint {
namespace {

namespace fs = std::filesystem;

bool readable(const fs::path& file) {
  const std::string extension = file.extension();
  return extension == ".safetensors" || extension == ".npy" || extension == ".npz";
}

}  // namespace

TensorFiles TensorFiles::open(const fs::path& path) {
  TensorFiles files(path);
  if (fs::is_directory(path)) {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(path))
      if (readable(entry.path())) found.push_back(entry.path());
    std::ranges::sort(found);
    for (const fs::path& file : found) files.add(file);
    if (found.empty())
      fail(ErrorKind::kFile, "{}: no file .safetensors, .npy or .npz in this directory",
           printable_path(path));
  } else {
    files.add(path);
  }
  files.sort();
  return files;
}

void TensorFiles::add(const fs::path& file) {
  const std::string what = printable_path(file);
  const std::string extension = file.extension();
  if (extension == ".npz") {
    add_npz(mapped_.emplace_back(file), what);
  } else if (extension == ".npy") {
    tensors_.push_back(parse_npy(mapped_.emplace_back(file).bytes(), what));
    tensors_.back().name = file.stem();
  } else {
    const SafetensorsFile& opened = safetensors_.emplace_back(SafetensorsFile::open(file));
    tensors_.insert(tensors_.end(), opened.tensors().begin(), opened.tensors().end());
  }
}

void TensorFiles::add_npz(const MappedFile& file, const std::string& what) {
  for (const ZipEntry& entry : zip_entries(file.bytes(), what)) {
    std::string name = entry.name;
    if (!name.ends_with(".npy"))
      fail(ErrorKind::kFile, "{}: expected entries NAME.npy, found \"{}\"", what, printable(name));
    name.resize(name.size() - 4);
    if (!entry.deflated) require_crc(entry, what);
    const std::span<const std::byte> bytes =
        entry.deflated ? std::span<const std::byte>(inflated_.emplace_back(inflated(entry, what)))
                       : entry.bytes;
    tensors_.push_back(parse_npy(bytes, fmt::format("{}: \"{}\"", what, printable(name))));
    tensors_.back().name = name;
  }
}

void TensorFiles::sort() {
  std::ranges::sort(tensors_, {}, &TensorView::name);
  const auto twice = std::ranges::adjacent_find(tensors_, {}, &TensorView::name);
  if (twice != tensors_.end())
    fail(ErrorKind::kFile, "{}: tensor \"{}\" stands twice", printable_path(path_), printable(twice->name));
}

const TensorView* TensorFiles::find(std::string_view name) const {
  const auto at = std::ranges::lower_bound(tensors_, name, {}, &TensorView::name);
  return at == tensors_.end() || at->name != name ? nullptr : &*at;
}

}  // namespace fulgurite::checkpoint
