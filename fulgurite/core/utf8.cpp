#include "fulgurite/core/utf8.h"

#include "fulgurite/core/error.h"

namespace fulgurite {
namespace {

// What a lead byte promises: the sequence's length and the range of its second byte (Unicode, table 3-7).
struct Lead {
  size_t length;
  unsigned char second_low, second_high;
};

Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// How many bytes of `text` agree with the sequence that its first byte begins.
size_t matching_bytes(std::string_view text, const Lead& lead) {
  size_t matched = 1;
  while (matched < lead.length && matched < text.size()) {
    const auto byte = static_cast<unsigned char>(text[matched]);
    const unsigned char low = matched == 1 ? lead.second_low : 0x80;
    const unsigned char high = matched == 1 ? lead.second_high : 0xBF;
    if (byte < low || byte > high) break;
    matched += 1;
  }
  return matched;
}

}  // namespace

size_t utf8_sequence_length(std::string_view text) {
  if (text.empty()) return 0;
  const Lead lead = lead_of(static_cast<unsigned char>(text[0]));
  if (lead.length == 0 || matching_bytes(text, lead) < lead.length) return 0;
  return lead.length;
}

size_t utf8_valid_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const size_t length = utf8_sequence_length(text.substr(at));
    if (length == 0) break;
    at += length;
  }
  return at;
}

size_t utf8_incomplete_tail(std::string_view text) {
  for (size_t tail = 1; tail <= 3 && tail <= text.size(); ++tail) {
    const std::string_view end = text.substr(text.size() - tail);
    const Lead lead = lead_of(static_cast<unsigned char>(end[0]));
    if (lead.length > tail && matching_bytes(end, lead) == tail) return tail;
  }
  return 0;
}

void require_utf8(std::string_view text, const std::string& what) {
  const size_t valid = utf8_valid_prefix(text);
  if (valid == text.size()) return;
  fail(ErrorKind::kRequest, "{}: expected UTF-8, found byte 0x{:02x} at offset {}", what,
       static_cast<unsigned char>(text[valid]), valid);
}

}  // namespace fulgurite
