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

// A tensor with its bytes counted.
struct Entry {
  const PlannedTensor* tensor;
  size_t index;  // among those that were given
  size_t bytes;
};

std::string where(const PlannedTensor& tensor, const std::string& what) {
  return fmt::format("{}: tensor \"{}\"", what, printable(tensor.name));
}

[[noreturn]] void wrong_size(const PlannedTensor& tensor, size_t given, size_t needed,
                             const std::string& what) {
  fail(ErrorKind::kFile, "{}: given {} bytes, {} needs {}", where(tensor, what), given,
       describe(tensor.dtype, tensor.shape), needed);
}

std::vector<Entry> in_file_order(std::span<const PlannedTensor> tensors, const std::string& what) {
  std::set<std::string_view> names{"__metadata__"};
  std::vector<Entry> order;
  for (const PlannedTensor& tensor : tensors) {
    if (!names.insert(tensor.name).second)
      fail(ErrorKind::kFile, "{}: the name is taken", where(tensor, what));
    const int64_t bytes = byte_size(tensor.dtype, tensor.shape, where(tensor, what));
    order.push_back({&tensor, order.size(), static_cast<size_t>(bytes)});
  }
  std::sort(order.begin(), order.end(), [](const Entry& a, const Entry& b) {
    const int64_t left = alignment(a.tensor->dtype), right = alignment(b.tensor->dtype);
    return left != right ? left > right : a.tensor->name < b.tensor->name;
  });
  return order;
}

std::string header_text(const std::vector<Entry>& order, const std::map<std::string, std::string>& metadata,
                        const std::string& what) {
  std::vector<std::string> entries;
  if (!metadata.empty()) {
    std::vector<std::string> pairs;
    for (const auto& [key, value] : metadata) pairs.push_back(quoted(key, what) + ":" + quoted(value, what));
    entries.push_back(fmt::format("\"__metadata__\":{{{}}}", fmt::join(pairs, ",")));
  }
  size_t offset = 0;
  for (const Entry& entry : order) {
    entries.push_back(fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                                  quoted(entry.tensor->name, what), name(entry.tensor->dtype),
                                  fmt::join(entry.tensor->shape, ","), offset, offset + entry.bytes));
    offset += entry.bytes;
  }
  std::string text = fmt::format("{{{}}}", fmt::join(entries, ","));
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kLargestHeaderBytes)
    fail(ErrorKind::kFile, "{}: a header of {} bytes, the format allows {}", what, text.size(),
         kLargestHeaderBytes);
  return text;
}

}  // namespace

FileLayout lay_out(std::span<const PlannedTensor> tensors, const std::map<std::string, std::string>& metadata,
                   const std::string& what) {
  const std::vector<Entry> order = in_file_order(tensors, what);
  const std::string header = header_text(order, metadata, what);
  const uint64_t length = header.size();
  FileLayout layout;
  layout.head.assign(reinterpret_cast<const char*>(&length), sizeof length);
  layout.head += header;
  layout.offsets.resize(tensors.size());
  layout.bytes = static_cast<int64_t>(layout.head.size());
  for (const Entry& entry : order) {
    layout.offsets[entry.index] = layout.bytes;
    layout.bytes += static_cast<int64_t>(entry.bytes);
  }
  return layout;
}

void write_safetensors(const std::filesystem::path& path, std::span<const PlannedTensor> tensors,
                       const std::function<void(size_t tensor, const Sink& sink)>& make,
                       const std::map<std::string, std::string>& metadata) {
  const std::string what = printable_path(path);
  const std::vector<Entry> order = in_file_order(tensors, what);
  const std::string header = header_text(order, metadata, what);
  const uint64_t length = header.size();

  PendingFile file(path);
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(std::as_bytes(std::span(header)));
  for (const Entry& entry : order) {
    size_t written = 0;
    make(entry.index, [&](std::span<const std::byte> bytes) {
      written += bytes.size();
      if (written > entry.bytes) wrong_size(*entry.tensor, written, entry.bytes, what);
      file.write(bytes);
    });
    if (written != entry.bytes) wrong_size(*entry.tensor, written, entry.bytes, what);
  }
  file.commit();
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                       const std::map<std::string, std::string>& metadata) {
  const std::string what = printable_path(path);
  std::vector<PlannedTensor> planned;
  for (const TensorView& tensor : tensors) {
    planned.push_back({tensor.name, tensor.dtype, tensor.shape});
    const auto needed =
        static_cast<size_t>(byte_size(tensor.dtype, tensor.shape, where(planned.back(), what)));
    if (tensor.bytes.size() != needed) wrong_size(planned.back(), tensor.bytes.size(), needed, what);
  }
  const auto make = [&](size_t tensor, const Sink& sink) { sink(tensors[tensor].bytes); };
  write_safetensors(path, planned, make, metadata);
}

void write_text(const std::filesystem::path& path, std::string_view text) {
  PendingFile file(path);
  file.write(std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace fulgurite::checkpoint
