#pragma once
// UTF-8 as RFC 3629 defines it: no overlong forms, no surrogates, nothing above U+10FFFF.

#include <cstddef>
#include <string>
#include <string_view>

namespace fulgurite {

// Bytes of the well-formed sequence at the start of `text`; 0 if there is none.
size_t utf8_sequence_length(std::string_view text);

// Offset of the first byte that belongs to no well-formed sequence; text.size() if there is none.
size_t utf8_valid_prefix(std::string_view text);

// Bytes at the end of `text` that begin a sequence which later bytes could complete (0 to 3).
size_t utf8_incomplete_tail(std::string_view text);

// Throws Error{kRequest} that names `what`, the first byte that is wrong and its offset.
void require_utf8(std::string_view text, const std::string& what);

}  // namespace fulgurite
