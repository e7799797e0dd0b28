#include "fulgurite/checkpoint/writer.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <iterator>
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

void check_tensors(std::span<const TensorView> tensors, const std::string& what) {
  std::set<std::string_view> names{"__metadata__"};
  for (const TensorView& tensor : tensors) {
    const std::string where = fmt::format("{}: tensor \"{}\"", what, printable(tensor.name));
    if (!names.insert(tensor.name).second) fail(ErrorKind::kFile, "{}: the name is taken", where);
    const int64_t needed = byte_size(tensor.dtype, tensor.shape, where);
    if (static_cast<int64_t>(tensor.bytes.size()) != needed)
      fail(ErrorKind::kFile, "{}: given {} bytes, {} needs {}", where, tensor.bytes.size(), describe(tensor),
           needed);
  }
}

std::vector<const TensorView*> in_file_order(std::span<const TensorView> tensors) {
  std::vector<const TensorView*> order;
  for (const TensorView& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const TensorView* a, const TensorView* b) {
    if (alignment(a->dtype) != alignment(b->dtype)) return alignment(a->dtype) > alignment(b->dtype);
    return a->name < b->name;
  });
  return order;
}

std::string header_text(const std::vector<const TensorView*>& order,
                        const std::map<std::string, std::string>& metadata, const std::string& what) {
  std::vector<std::string> entries;
  if (!metadata.empty()) {
    std::vector<std::string> pairs;
    for (const auto& [key, value] : metadata) pairs.push_back(quoted(key, what) + ":" + quoted(value, what));
    entries.push_back(fmt::format("\"__metadata__\":{{{}}}", fmt::join(pairs, ",")));
  }
  size_t offset = 0;
  for (const TensorView* tensor : order) {
    entries.push_back(fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                                  quoted(tensor->name, what), name(tensor->dtype),
                                  fmt::join(tensor->shape, ","), offset, offset + tensor->bytes.size()));
    offset += tensor->bytes.size();
  }
  std::string text = fmt::format("{{{}}}", fmt::join(entries, ","));
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kLargestHeaderBytes)
    fail(ErrorKind::kFile, "{}: a header of {} bytes, the format allows {}", what, text.size(),
         kLargestHeaderBytes);
  return text;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                       const std::map<std::string, std::string>& metadata) {
  const std::string what = printable_path(path);
  check_tensors(tensors, what);
  const std::vector<const TensorView*> order = in_file_order(tensors);
  const std::string header = header_text(order, metadata, what);
  const uint64_t length = header.size();

  PendingFile file(path);
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(std::as_bytes(std::span(header)));
  for (const TensorView* tensor : order) file.write(tensor->bytes);
  file.commit();
}

}  // namespace fulgurite::checkpoint
