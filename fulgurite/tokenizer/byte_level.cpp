#include "fulgurite/tokenizer/byte_level.h"

#include <array>
#include <cstdint>

namespace fulgurite {
namespace {

constexpr int kOthers = 68;  // bytes that do not stand for themselves

constexpr bool stands_for_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<uint16_t, 256> character{};
  std::array<int16_t, 256 + kOthers> byte{};  // by character; -1: none

  constexpr Alphabet() {
    byte.fill(-1);
    int others = 0;
    for (int value = 0; value < 256; ++value) {
      const int spelled = stands_for_itself(value) ? value : 256 + others++;
      character[value] = static_cast<uint16_t>(spelled);
      byte[spelled] = static_cast<int16_t>(value);
    }
  }
};
constexpr Alphabet kAlphabet;

// The characters of the alphabet have one or two bytes in UTF-8. Moves `at` over one of them; -1: any other.
int next_byte(std::string_view spelling, size_t& at) {
  const auto first = static_cast<unsigned char>(spelling[at++]);
  if (first < 0x80) return kAlphabet.byte[first];
  if (first < 0xC2 || first > 0xDF || at == spelling.size()) return -1;
  const unsigned character = (first & 0x1Fu) << 6 | (static_cast<unsigned char>(spelling[at++]) & 0x3Fu);
  return character < kAlphabet.byte.size() ? kAlphabet.byte[character] : -1;
}

}  // namespace

std::string byte_level_spelling(std::string_view bytes) {
  std::string spelling;
  for (const char byte : bytes) {
    const unsigned character = kAlphabet.character[static_cast<unsigned char>(byte)];
    if (character < 0x80) {
      spelling += static_cast<char>(character);
    } else {
      spelling += static_cast<char>(0xC0 | character >> 6);
      spelling += static_cast<char>(0x80 | (character & 0x3F));
    }
  }
  return spelling;
}

std::optional<std::string> byte_level_bytes(std::string_view spelling) {
  std::string bytes;
  for (size_t at = 0; at < spelling.size();) {
    const int byte = next_byte(spelling, at);
    if (byte < 0) return std::nullopt;
    bytes += static_cast<char>(byte);
  }
  return bytes;
}

}  // namespace fulgurite
