#include "fulgurite/checkpoint/zip.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "fulgurite/core/error.h"

namespace fulgurite::checkpoint {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50;
constexpr size_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kLongestComment = 65535;
constexpr uint64_t kLargestInflated = uint64_t{1} << 36;

class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& what) : bytes_(bytes), what_(what) {}

  template <class T>
  T read(size_t at) const {
    T value;
    std::memcpy(&value, part(at, sizeof value).data(), sizeof value);
    return value;
  }
  std::span<const std::byte> part(uint64_t at, uint64_t size) const {
    if (at > bytes_.size() || size > bytes_.size() - at) broken("ends within an entry");
    return bytes_.subspan(static_cast<size_t>(at), static_cast<size_t>(size));
  }
  size_t size() const { return bytes_.size(); }
  [[noreturn]] void broken(std::string_view why) const {
    fail(ErrorKind::kFile, "{}: no zip archive that can be read: {}", what_, why);
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& what_;
};

size_t find_end(const Reader& file) {
  if (file.size() >= kEndBytes)
    for (size_t back = kEndBytes; back <= std::min(file.size(), kEndBytes + kLongestComment); ++back)
      if (file.read<uint32_t>(file.size() - back) == kEnd) return file.size() - back;
  file.broken("no end of a central directory");
}

struct Sizes {
  uint64_t size, packed, offset;
};

// What does not fit into 32 bits stands in the extra field.
void read_zip64(const Reader& extra, Sizes& sizes) {
  for (size_t at = 0; at + 4 <= extra.size();) {
    const auto id = extra.read<uint16_t>(at);
    const auto length = extra.read<uint16_t>(at + 2);
    size_t value = at + 4;
    for (uint64_t* const field : {&sizes.size, &sizes.packed, &sizes.offset}) {
      if (id != 1 || *field != 0xFFFFFFFF) continue;
      *field = extra.read<uint64_t>(value);
      value += 8;
    }
    at += 4 + length;
  }
}

ZipEntry read_entry(const Reader& file, size_t at, const std::string& what) {
  if (file.read<uint32_t>(at) != kCentral) file.broken("an entry of its directory has no signature");
  const auto flags = file.read<uint16_t>(at + 8), method = file.read<uint16_t>(at + 10);
  const auto name_length = file.read<uint16_t>(at + 28), extra_length = file.read<uint16_t>(at + 30);
  Sizes sizes{file.read<uint32_t>(at + 24), file.read<uint32_t>(at + 20), file.read<uint32_t>(at + 42)};
  read_zip64(Reader(file.part(at + kCentralBytes + name_length, extra_length), what), sizes);
  ZipEntry entry;
  const auto name = file.part(at + kCentralBytes, name_length);
  entry.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
  if ((flags & 1) != 0) file.broken(fmt::format("\"{}\" is encrypted", printable(entry.name)));
  if (method != 0 && method != 8)
    file.broken(fmt::format("\"{}\" is packed by method {}, expected 0 (stored) or 8 (deflated)",
                            printable(entry.name), method));
  entry.deflated = method == 8;
  entry.crc = file.read<uint32_t>(at + 16);
  entry.size = sizes.size;
  file.part(sizes.offset, kLocalBytes);
  const auto local = static_cast<size_t>(sizes.offset);
  if (file.read<uint32_t>(local) != kLocal) file.broken("an entry has no signature");
  const uint64_t begin =
      sizes.offset + kLocalBytes + file.read<uint16_t>(local + 26) + file.read<uint16_t>(local + 28);
  entry.bytes = file.part(begin, sizes.packed);
  if (!entry.deflated && sizes.packed != sizes.size)
    file.broken(fmt::format("\"{}\" is stored in {} bytes, but has {}", printable(entry.name), sizes.packed,
                            sizes.size));
  return entry;
}

uint32_t crc_of(std::span<const std::byte> bytes) {
  return static_cast<uint32_t>(
      crc32_z(crc32_z(0, nullptr, 0), reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

void require_crc(uint32_t is, const ZipEntry& entry, const std::string& what) {
  if (is != entry.crc)
    fail(ErrorKind::kFile,
         "{}: \"{}\": its bytes are not those that were written (CRC {:08x}, expected {:08x})", what,
         printable(entry.name), is, entry.crc);
}

}  // namespace

std::vector<ZipEntry> zip_entries(std::span<const std::byte> bytes, const std::string& what) {
  const Reader file(bytes, what);
  const size_t end = find_end(file);
  const auto count = file.read<uint16_t>(end + 10);
  auto at = static_cast<size_t>(file.read<uint32_t>(end + 16));
  if (count == 0xFFFF || at == 0xFFFFFFFF) file.broken("more than 65534 entries, or beyond 4 GiB");
  std::vector<ZipEntry> entries;
  for (int i = 0; i < count; ++i) {
    entries.push_back(read_entry(file, at, what));
    at += kCentralBytes + file.read<uint16_t>(at + 28) + file.read<uint16_t>(at + 30) +
          file.read<uint16_t>(at + 32);
  }
  return entries;
}

std::vector<std::byte> inflated(const ZipEntry& entry, const std::string& what) {
  // Deflate packs to 1/1032 at best: a size that the bytes cannot have is not allocated.
  if (entry.size > kLargestInflated || entry.size / 1032 > entry.bytes.size() + 1)
    fail(ErrorKind::kFile, "{}: \"{}\": {} bytes cannot come from {}", what, printable(entry.name),
         entry.size, entry.bytes.size());
  std::vector<std::byte> contents(static_cast<size_t>(entry.size));
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw std::bad_alloc();
  constexpr size_t kMost = size_t{1} << 30;  // at once: zlib counts in 32 bits
  size_t in = 0, out = 0;
  int result = Z_OK;
  while (result == Z_OK) {
    const size_t in_now = std::min(entry.bytes.size() - in, kMost);
    const size_t out_now = std::min(contents.size() - out, kMost);
    stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(entry.bytes.data() + in));
    stream.avail_in = static_cast<uInt>(in_now);
    stream.next_out = reinterpret_cast<Bytef*>(contents.data() + out);
    stream.avail_out = static_cast<uInt>(out_now);
    result = inflate(&stream, Z_NO_FLUSH);
    in += in_now - stream.avail_in;
    out += out_now - stream.avail_out;
  }
  inflateEnd(&stream);
  if (result != Z_STREAM_END || out != contents.size())
    fail(ErrorKind::kFile, "{}: \"{}\": its deflated bytes are damaged", what, printable(entry.name));
  require_crc(crc_of(contents), entry, what);
  return contents;
}

void require_crc(const ZipEntry& entry, const std::string& what) {
  require_crc(crc_of(entry.bytes), entry, what);
}

}  // namespace fulgurite::checkpoint
