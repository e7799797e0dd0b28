#pragma once
// The entries of a zip archive, as NumPy writes .npz: stored or deflated, not encrypted, one part.
// Source: PKWARE APPNOTE.TXT 6.3.10, 4.3.7 (local header), 4.3.12 (central directory), 4.3.16 (its end) and
// 4.5.3 (zip64 extra field).

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fulgurite::checkpoint {

struct ZipEntry {
  std::string name;
  bool deflated = false;
  uint32_t crc = 0;
  uint64_t size = 0;                 // of the contents
  std::span<const std::byte> bytes;  // in the archive
};

// In the order of the central directory. `what` names the file in messages. Throws Error{kFile}.
std::vector<ZipEntry> zip_entries(std::span<const std::byte> file, const std::string& what);

// The contents of a deflated entry. Throws Error{kFile} where they are not what the archive says.
std::vector<std::byte> inflated(const ZipEntry& entry, const std::string& what);
// Throws Error{kFile} if the bytes of a stored entry are not what the archive says.
void require_crc(const ZipEntry& entry, const std::string& what);

}  // namespace fulgurite::checkpoint
