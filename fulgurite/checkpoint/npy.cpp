// NumPy's .npy. Source: numpy/lib/format.py, "Format Version 1.0" to 3.0.

#include <charconv>
#include <cstring>
#include <optional>

#include "fulgurite/checkpoint/tensor_files.h"
#include "fulgurite/core/error.h"

namespace fulgurite::checkpoint {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";

std::optional<DType> dtype_of(std::string_view descr) {
  struct Known {
    std::string_view descr;
    DType dtype;
  };
  static constexpr Known kKnown[] = {{"<f4", DType::kF32}, {"<f8", DType::kF64}, {"<f2", DType::kF16},
                                     {"<i4", DType::kI32}, {"<i8", DType::kI64}, {"<V2", DType::kBF16},
                                     {"|V2", DType::kBF16}};
  for (const Known& known : kKnown)
    if (known.descr == descr) return known.dtype;
  return std::nullopt;
}

// The header is a Python dictionary of three keys, written by repr().
class Dictionary {
 public:
  Dictionary(std::string_view text, const std::string& what) : text_(text), what_(what) {}

  std::string_view quoted(std::string_view key) const {
    std::string_view value = after(key);
    if (value.empty() || value.front() != '\'') broken();
    value.remove_prefix(1);
    return value.substr(0, value.find('\''));
  }
  bool truth(std::string_view key) const {
    const std::string_view value = after(key);
    if (value.starts_with("True")) return true;
    if (!value.starts_with("False")) broken();
    return false;
  }
  std::vector<int64_t> tuple(std::string_view key) const {
    std::string_view value = after(key);
    const size_t end = value.find(')');
    if (!value.starts_with('(') || end == std::string_view::npos) broken();
    value = value.substr(1, end - 1);
    std::vector<int64_t> numbers;
    while (true) {
      value.remove_prefix(std::min(value.find_first_not_of(", "), value.size()));
      if (value.empty()) return numbers;
      int64_t number = 0;
      const auto [at, error] = std::from_chars(value.data(), value.data() + value.size(), number);
      if (error != std::errc() || number < 0) broken();
      numbers.push_back(number);
      value.remove_prefix(static_cast<size_t>(at - value.data()));
      if (!value.empty() && value.front() != ',' && value.front() != ' ') broken();
    }
  }
  [[noreturn]] void broken() const {
    fail(ErrorKind::kFile, "{}: expected the header of a .npy file, found {}", what_, printable(text_, 80));
  }

 private:
  // What stands behind 'key':
  std::string_view after(std::string_view key) const {
    const size_t at = text_.find(fmt::format("'{}':", key));
    if (at == std::string_view::npos) broken();
    std::string_view rest = text_.substr(at + key.size() + 3);
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    return rest;
  }

  std::string_view text_;
  const std::string& what_;
};

}  // namespace

TensorView parse_npy(std::span<const std::byte> file, const std::string& what) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (!text.starts_with(kMagic) || text.size() < 12)
    fail(ErrorKind::kFile, "{}: expected a .npy file, found {} bytes that begin otherwise", what,
         text.size());
  const bool old = text[6] == 1;
  const size_t begin = old ? 10 : 12;
  uint32_t length = 0;
  std::memcpy(&length, text.data() + 8, old ? 2 : 4);
  if (text[6] < 1 || text[6] > 3 || length > text.size() - begin)
    fail(ErrorKind::kFile, "{}: expected a .npy header of version 1 to 3 within the file", what);
  const Dictionary header(text.substr(begin, length), what);
  const std::string_view descr = header.quoted("descr");
  const std::optional<DType> dtype = dtype_of(descr);
  if (!dtype)
    fail(ErrorKind::kFile, "{}: expected <f4, <f8, <f2, <V2 (bfloat16), <i4 or <i8, found {}", what,
         printable(descr, 40));
  TensorView tensor{"", *dtype, header.tuple("shape"), file.subspan(begin + length)};
  if (header.truth("fortran_order") && tensor.shape.size() > 1)
    fail(ErrorKind::kFile, "{}: expected C order, found Fortran's (numpy.ascontiguousarray changes it)",
         what);
  const int64_t bytes = byte_size(tensor.dtype, tensor.shape, what);
  if (static_cast<uint64_t>(bytes) != tensor.bytes.size())
    fail(ErrorKind::kFile, "{}: {} takes {} bytes, the file has {}", what, describe(tensor), bytes,
         tensor.bytes.size());
  return tensor;
}

}  // namespace fulgurite::checkpoint
