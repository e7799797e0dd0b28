#include "fulgurite/core/error.h"

#include "fulgurite/core/utf8.h"

namespace fulgurite {

std::string printable(std::string_view text, size_t limit) {
  std::string out;
  size_t at = 0;
  while (at < text.size()) {
    if (out.size() >= limit) return out + "...";
    const size_t length = utf8_sequence_length(text.substr(at));
    const unsigned char first = static_cast<unsigned char>(text[at]);
    if (length == 0 || first < 0x20 || first == 0x7F) {
      out += fmt::format("\\x{:02x}", first);
      at += 1;
    } else {
      out += text.substr(at, length);
      at += length;
    }
  }
  return out;
}

}  // namespace fulgurite
