#include "fulgurite/checkpoint/writer.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <set>
#include <string_view>
#include <system_error>
#include <vector>

#include "fulgurite/checkpoint/mapped_file.h"
#include "fulgurite/checkpoint/safetensors.h"
#include "fulgurite/core/error.h"
#include "fulgurite/core/json.h"
#include "fulgurite/core/utf8.h"

namespace fulgurite::checkpoint {
namespace {

// A file under a temporary name; gone with this object unless it was committed.
class PendingFile {
 public:
  explicit PendingFile(const std::filesystem::path& target) : target_(target), temporary_(target) {
    temporary_ += fmt::format(".{}.partial", getpid());
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor_ < 0) system_failed();
  }
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;
  ~PendingFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!committed_) ::unlink(temporary_.c_str());
  }

  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
      if (written < 0 && errno != EINTR) system_failed();
      if (written > 0) bytes = bytes.subspan(static_cast<size_t>(written));
    }
  }

  void commit() {
    const int closed = ::close(descriptor_);
    descriptor_ = -1;
    if (closed != 0 || std::rename(temporary_.c_str(), target_.c_str()) != 0) system_failed();
    committed_ = true;
  }

 private:
  [[noreturn]] void system_failed() const {
    fail(ErrorKind::kFile, "{}: cannot be written: {}", printable_path(target_),
         std::generic_category().message(errno));
  }

  std::filesystem::path target_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  bool committed_ = false;
};

std::string quoted(const std::string& text, const std::string& what) {
  if (utf8_valid_prefix(text) != text.size())
    fail(ErrorKind::kFile, "{}: \"{}\" is not valid UTF-8", what, printable(text));
  return Json(text).dump();
}

void check_names(std::span<const TensorEntry> entries, const std::string& what) {
  std::set<std::string_view> names{"__metadata__"};
  for (const TensorEntry& entry : entries)
    if (!names.insert(entry.name).second)
      fail(ErrorKind::kFile, "{}: tensor \"{}\": the name is taken", what, printable(entry.name));
}

std::vector<size_t> in_file_order(std::span<const TensorEntry> entries) {
  std::vector<size_t> order(entries.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const int64_t first = alignment(entries[a].dtype), second = alignment(entries[b].dtype);
    return first != second ? first > second : entries[a].name < entries[b].name;
  });
  return order;
}

std::string metadata_text(const std::map<std::string, std::string>& metadata, const std::string& what) {
  std::vector<std::string> pairs;
  for (const auto& [key, value] : metadata) pairs.push_back(quoted(key, what) + ":" + quoted(value, what));
  return fmt::format("\"__metadata__\":{{{}}}", fmt::join(pairs, ","));
}

}  // namespace

FileLayout lay_out(std::span<const TensorEntry> entries, const std::map<std::string, std::string>& metadata,
                   const std::string& what) {
  check_names(entries, what);
  FileLayout layout{"", in_file_order(entries), std::vector<int64_t>(entries.size()), 0};
  std::vector<std::string> texts;
  if (!metadata.empty()) texts.push_back(metadata_text(metadata, what));
  int64_t offset = 0;
  for (const size_t i : layout.order) {
    const TensorEntry& entry = entries[i];
    const int64_t end = offset + byte_size(entry.dtype, entry.shape,
                                           fmt::format("{}: tensor \"{}\"", what, printable(entry.name)));
    texts.push_back(fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                                quoted(entry.name, what), name(entry.dtype), fmt::join(entry.shape, ","),
                                offset, end));
    layout.offsets[i] = offset;
    offset = end;
  }
  std::string text = fmt::format("{{{}}}", fmt::join(texts, ","));
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kLargestHeaderBytes)
    fail(ErrorKind::kFile, "{}: a header of {} bytes, the format allows {}", what, text.size(),
         kLargestHeaderBytes);
  const uint64_t length = text.size();
  layout.head.assign(reinterpret_cast<const char*>(&length), sizeof length);
  layout.head += text;
  for (int64_t& place : layout.offsets) place += static_cast<int64_t>(layout.head.size());
  layout.bytes = static_cast<int64_t>(layout.head.size()) + offset;
  return layout;
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                       const std::map<std::string, std::string>& metadata) {
  const std::string what = printable_path(path);
  std::vector<TensorEntry> entries;
  for (const TensorView& tensor : tensors) entries.push_back({tensor.name, tensor.dtype, tensor.shape});
  const FileLayout layout = lay_out(entries, metadata, what);
  for (const TensorView& tensor : tensors) {
    const std::string where = fmt::format("{}: tensor \"{}\"", what, printable(tensor.name));
    const int64_t needed = byte_size(tensor.dtype, tensor.shape, where);
    if (static_cast<int64_t>(tensor.bytes.size()) != needed)
      fail(ErrorKind::kFile, "{}: given {} bytes, {} needs {}", where, tensor.bytes.size(), describe(tensor),
           needed);
  }
  PendingFile file(path);
  file.write(std::as_bytes(std::span(layout.head)));
  for (const size_t i : layout.order) file.write(tensors[i].bytes);
  file.commit();
}

}  // namespace fulgurite::checkpoint
