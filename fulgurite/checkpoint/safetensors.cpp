#include "fulgurite/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <tuple>
#include <utility>

#include "fulgurite/core/error.h"
#include "fulgurite/core/json.h"

namespace fulgurite::checkpoint {
namespace {

constexpr size_t kLengthBytes = 8;
constexpr std::string_view kMetadata = "__metadata__";

struct Entry {
  TensorView tensor;  // its bytes are set when all entries are known to be sound
  int64_t begin = 0;
  int64_t end = 0;
};

std::string_view header_text(std::span<const std::byte> file, const std::string& what) {
  if (file.empty()) fail(ErrorKind::kFile, "{}: expected a safetensors file, found an empty file", what);
  if (file.size() < kLengthBytes)
    fail(ErrorKind::kFile, "{}: expected the 8-byte length of a header, found {} bytes", what, file.size());
  uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  if (length > kLargestHeaderBytes)
    fail(ErrorKind::kFile, "{}: a header of {} bytes, the format allows {}", what, length,
         kLargestHeaderBytes);
  if (length > file.size() - kLengthBytes)
    fail(ErrorKind::kFile, "{}: a header of {} bytes, the file has {} bytes after its length", what, length,
         file.size() - kLengthBytes);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  if (!text.starts_with('{')) fail(ErrorKind::kFile, "{}: the header does not begin with a brace", what);
  return text;
}

std::string found(const Json& value) { return printable(value.dump(), 60); }

std::optional<int64_t> natural_number(const Json& value) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
    return std::nullopt;
  return value.get<int64_t>();
}

std::map<std::string, std::string> read_metadata(const Json& value, const std::string& what) {
  if (!value.is_object())
    fail(ErrorKind::kFile, "{}: {}: expected an object, found {}", what, kMetadata, found(value));
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string())
      fail(ErrorKind::kFile, "{}: {}: \"{}\": expected a string, found {}", what, kMetadata, printable(key),
           found(text));
    metadata.emplace(key, text.get<std::string>());
  }
  return metadata;
}

void check_keys(const Json& entry, const std::string& what) {
  constexpr std::array<std::string_view, 3> kKeys{"dtype", "shape", "data_offsets"};
  if (!entry.is_object()) fail(ErrorKind::kFile, "{}: expected an object, found {}", what, found(entry));
  for (const auto& item : entry.items())
    if (std::find(kKeys.begin(), kKeys.end(), item.key()) == kKeys.end())
      fail(ErrorKind::kFile, "{}: unknown key \"{}\"", what, printable(item.key()));
  for (const std::string_view key : kKeys)
    if (!entry.contains(key)) fail(ErrorKind::kFile, "{}: key \"{}\" is missing", what, key);
}

DType read_dtype(const Json& value, const std::string& what) {
  if (!value.is_string())
    fail(ErrorKind::kFile, "{}: dtype: expected a string, found {}", what, found(value));
  const auto& text = value.get_ref<const std::string&>();
  const std::optional<DType> dtype = dtype_from_name(text);
  if (!dtype) fail(ErrorKind::kFile, "{}: unknown dtype \"{}\"", what, printable(text));
  return *dtype;
}

std::vector<int64_t> read_numbers(const Json& value, std::string_view key, const std::string& what) {
  if (!value.is_array())
    fail(ErrorKind::kFile, "{}: {}: expected an array, found {}", what, key, found(value));
  std::vector<int64_t> numbers;
  for (const Json& element : value) {
    const std::optional<int64_t> number = natural_number(element);
    if (!number)
      fail(ErrorKind::kFile, "{}: {}: expected integers of 0 to 2^63 - 1, found {}", what, key,
           found(element));
    numbers.push_back(*number);
  }
  return numbers;
}

Entry read_entry(const std::string& name, const Json& json, int64_t data_bytes, const std::string& file) {
  const std::string what = fmt::format("{}: tensor \"{}\"", file, printable(name));
  check_keys(json, what);
  Entry entry;
  entry.tensor.name = name;
  entry.tensor.dtype = read_dtype(json["dtype"], what);
  entry.tensor.shape = read_numbers(json["shape"], "shape", what);
  const std::vector<int64_t> offsets = read_numbers(json["data_offsets"], "data_offsets", what);
  if (offsets.size() != 2)
    fail(ErrorKind::kFile, "{}: data_offsets: expected [begin, end], found {}", what,
         found(json["data_offsets"]));
  entry.begin = offsets[0];
  entry.end = offsets[1];
  if (entry.begin > entry.end)
    fail(ErrorKind::kFile, "{}: data_offsets [{}, {}] end before they begin", what, entry.begin, entry.end);
  if (entry.end > data_bytes)
    fail(ErrorKind::kFile, "{}: data_offsets [{}, {}] leave the file's {} bytes of data", what, entry.begin,
         entry.end, data_bytes);
  const int64_t needed = byte_size(entry.tensor.dtype, entry.tensor.shape, what);
  if (entry.end - entry.begin != needed)
    fail(ErrorKind::kFile, "{}: data_offsets [{}, {}] hold {} bytes, {} needs {}", what, entry.begin,
         entry.end, entry.end - entry.begin, describe(entry.tensor), needed);
  return entry;
}

// The entries, sorted by place, follow each other from the first byte of data to the last.
void check_cover(const std::vector<Entry>& entries, int64_t data_bytes, const std::string& what) {
  int64_t covered = 0;
  const Entry* before = nullptr;
  for (const Entry& entry : entries) {
    if (entry.begin < covered)
      fail(ErrorKind::kFile, "{}: tensor \"{}\": data_offsets [{}, {}] overlap [{}, {}] of tensor \"{}\"",
           what, printable(entry.tensor.name), entry.begin, entry.end, before->begin, before->end,
           printable(before->tensor.name));
    if (entry.begin > covered)
      fail(ErrorKind::kFile, "{}: bytes [{}, {}] of the data, before tensor \"{}\", belong to no tensor",
           what, covered, entry.begin, printable(entry.tensor.name));
    covered = entry.end;
    before = &entry;
  }
  if (covered != data_bytes)
    fail(ErrorKind::kFile, "{}: bytes [{}, {}] at the end of the data belong to no tensor", what, covered,
         data_bytes);
}

}  // namespace

Header parse_header(std::span<const std::byte> file, const std::string& what) {
  const std::string_view text = header_text(file, what);
  const std::span<const std::byte> data = file.subspan(kLengthBytes + text.size());
  const auto data_bytes = static_cast<int64_t>(data.size());
  const Json json = parse_json(text, what, ErrorKind::kFile);

  Header header;
  std::vector<Entry> entries;
  for (const auto& [name, value] : json.items()) {
    if (name == kMetadata)
      header.metadata = read_metadata(value, what);
    else
      entries.push_back(read_entry(name, value, data_bytes, what));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.tensor.name) < std::tie(b.begin, b.end, b.tensor.name);
  });
  check_cover(entries, data_bytes, what);
  for (Entry& entry : entries) {
    entry.tensor.bytes =
        data.subspan(static_cast<size_t>(entry.begin), static_cast<size_t>(entry.end - entry.begin));
    header.tensors.push_back(std::move(entry.tensor));
  }
  return header;
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) { return {path, MappedFile(path)}; }

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path, MappedFile file)
    : path_(path), file_(std::move(file)), header_(parse_header(file_.bytes(), printable_path(path))) {
  by_name_.resize(header_.tensors.size());
  for (size_t i = 0; i < by_name_.size(); ++i) by_name_[i] = i;
  std::sort(by_name_.begin(), by_name_.end(),
            [this](size_t a, size_t b) { return header_.tensors[a].name < header_.tensors[b].name; });
}

const TensorView* SafetensorsFile::find(std::string_view name) const {
  const auto at =
      std::lower_bound(by_name_.begin(), by_name_.end(), name,
                       [this](size_t i, std::string_view key) { return header_.tensors[i].name < key; });
  if (at == by_name_.end() || header_.tensors[*at].name != name) return nullptr;
  return &header_.tensors[*at];
}

const TensorView& SafetensorsFile::require(std::string_view name) const {
  const TensorView* const tensor = find(name);
  if (tensor == nullptr)
    fail(ErrorKind::kFile, "{}: there is no tensor \"{}\"", printable_path(path_), printable(name));
  return *tensor;
}

}  // namespace fulgurite::checkpoint
