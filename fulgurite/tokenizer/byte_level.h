#pragma once
// The alphabet in which byte-level vocabularies are spelled: each byte is one printable character. A byte
// that is a printable character of Latin-1 stands for itself; the 68 others are U+0100, U+0101, ... in order
// (a space is "Ġ"). Source: openai/gpt-2, src/encoder.py (bytes_to_unicode).

#include <optional>
#include <string>
#include <string_view>

namespace fulgurite {

std::string byte_level_spelling(std::string_view bytes);

// nullopt: a character that spells no byte.
std::optional<std::string> byte_level_bytes(std::string_view spelling);

}  // namespace fulgurite
