#include "fulgurite/tokenizer/oniguruma.h"

#include <cctype>
#include <optional>

#include "fulgurite/core/error.h"
#include "fulgurite/core/utf8.h"
#include "fulgurite/tokenizer/unicode.h"

namespace fulgurite {
namespace {

constexpr size_t kLongestPattern = 4096;

bool is_ascii(std::string_view character) { return static_cast<unsigned char>(character[0]) < 0x80; }
bool is_alphanumeric(std::string_view character) {
  return is_ascii(character) && std::isalnum(static_cast<unsigned char>(character[0]));
}

// One character, inside a class or outside: letters, digits and all beyond ASCII as they are.
std::string literal(std::string_view character) {
  if (is_alphanumeric(character) || !is_ascii(character)) return std::string(character);
  return fmt::format("\\x{:02x}", static_cast<unsigned char>(character[0]));
}

class Translation {
 public:
  Translation(std::string_view pattern, const std::string& what) : pattern_(pattern), what_(what) {}

  std::string run() {
    if (pattern_.size() > kLongestPattern)
      fail(ErrorKind::kConfig, "{}: a pattern of {} bytes, at most {} are supported", what_, pattern_.size(),
           kLongestPattern);
    while (at_ < pattern_.size()) element();
    return std::move(out_);
  }

 private:
  // What a class may contain: one character, or a set written as the inside of a PCRE2 class.
  struct Item {
    std::optional<std::string> character;
    std::string set;
  };

  [[noreturn]] void refuse(size_t from, size_t length) const {
    fail(ErrorKind::kConfig, "{}: \"{}\": {} at offset {} is not supported", what_, printable(pattern_),
         printable(pattern_.substr(from, length)), from);
  }

  bool next_is(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!next_is(text)) return false;
    at_ += text.size();
    return true;
  }
  std::string_view take_character() {
    const size_t length = utf8_sequence_length(pattern_.substr(at_));
    if (length == 0) refuse(at_, 1);
    at_ += length;
    return pattern_.substr(at_ - length, length);
  }

  void element();
  void group();
  void ignoring_case();
  void quantifier();
  void interval();
  void character_class();
  Item class_item();
  Item escape();
  std::string property();

  std::string_view pattern_;
  const std::string& what_;
  size_t at_ = 0;
  std::string out_;
  bool quantifiable_ = false;
};

void Translation::element() {
  const size_t from = at_;
  if (next_is("(")) return group();
  if (next_is("*") || next_is("+") || next_is("?") || next_is("{")) return quantifier();
  if (take("|")) {
    out_ += '|';
    quantifiable_ = false;
    return;
  }
  quantifiable_ = true;
  if (take(")")) {
    out_ += ')';
  } else if (take(".")) {
    out_ += "[^\\n]";
  } else if (next_is("[")) {
    character_class();
  } else if (next_is("\\")) {
    const bool negated = next_is("\\S") || next_is("\\P");
    const Item item = escape();
    out_ += item.character ? literal(*item.character) : (negated ? "[^" : "[") + item.set + "]";
  } else if (next_is("^") || next_is("$") || next_is("]") || next_is("}")) {
    refuse(from, 1);
  } else {
    out_ += literal(take_character());
  }
}

void Translation::group() {
  quantifiable_ = false;
  if (next_is("(?i:")) return ignoring_case();
  for (const std::string_view kind : {"(?:", "(?=", "(?!", "(?>"}) {
    if (take(kind)) {
      out_ += kind;
      return;
    }
  }
  if (next_is("(?")) refuse(at_, 4);
  at_ += 1;
  out_ += "(?:";  // nobody asks what it captured
}

// Both engines fold one character to one. Oniguruma also folds some to two or three ("ß" is "ss"): such are
// refused.
void Translation::ignoring_case() {
  const size_t end = pattern_.find(')', at_);
  if (end == std::string_view::npos) refuse(at_, 4);
  const std::string_view inside = pattern_.substr(at_ + 4, end - at_ - 4);
  std::string lower;
  for (const char c : inside) {
    if (c != '\'' && c != '|' && !is_alphanumeric({&c, 1})) refuse(at_, end + 1 - at_);
    lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  for (const std::string_view folded : {"ss", "st", "ff", "fi", "fl"})
    if (lower.find(folded) != std::string::npos) refuse(at_, end + 1 - at_);
  out_ += pattern_.substr(at_, end + 1 - at_);
  at_ = end + 1;
  quantifiable_ = true;
}

void Translation::quantifier() {
  const size_t from = at_;
  if (!quantifiable_) refuse(from, 1);
  quantifiable_ = false;
  if (next_is("{")) return interval();
  out_ += take_character();
  if (next_is("?") || next_is("+")) out_ += take_character();  // lazy, possessive
}

// {n}, {n,} and {n,m}. A suffix would mean something else in either engine.
void Translation::interval() {
  const size_t from = at_;
  const auto digits = [&] {
    const size_t first = at_;
    while (at_ < pattern_.size() && std::isdigit(static_cast<unsigned char>(pattern_[at_]))) ++at_;
    return at_ > first;
  };
  at_ += 1;
  bool known = digits();
  if (take(",")) digits();
  known = known && take("}") && !next_is("?") && !next_is("+");
  if (!known) refuse(from, at_ - from + 1);
  out_ += pattern_.substr(from, at_ - from);
}

void Translation::character_class() {
  const size_t from = at_++;
  out_ += take("^") ? "[^" : "[";
  if (next_is("]")) refuse(from, at_ - from + 1);
  while (!take("]")) {
    if (at_ >= pattern_.size()) refuse(from, 1);
    const size_t item_from = at_;
    const Item item = class_item();
    if (!item.character) {
      out_ += item.set;
      continue;
    }
    out_ += literal(*item.character);
    if (!next_is("-") || pattern_.substr(at_).starts_with("-]")) continue;
    at_ += 1;
    const Item last = class_item();
    if (!last.character) refuse(item_from, at_ - item_from);
    out_ += fmt::format("-{}", literal(*last.character));
  }
  out_ += ']';
}

Translation::Item Translation::class_item() {
  const size_t from = at_;
  if (next_is("[") || next_is("&&") || next_is("\\S") || next_is("\\P")) refuse(from, 2);
  if (next_is("\\")) return escape();
  if (at_ >= pattern_.size()) refuse(from, 0);
  return {std::string(take_character()), {}};
}

Translation::Item Translation::escape() {
  const size_t from = at_;
  at_ += 1;
  if (take("s") || take("S")) return {std::nullopt, "\\p{Z}\\x09-\\x0d\\x85"};
  if (next_is("p{") || next_is("P{")) return {std::nullopt, property()};
  if (take("r")) return {"\r", {}};
  if (take("n")) return {"\n", {}};
  if (take("t")) return {"\t", {}};
  if (take("f")) return {"\f", {}};
  if (at_ >= pattern_.size() || is_alphanumeric(pattern_.substr(at_)) || !is_ascii(pattern_.substr(at_)))
    refuse(from, 2);
  return {std::string(take_character()), {}};
}

// The major categories, of Unicode 16.
std::string Translation::property() {
  const size_t from = at_ - 1;
  const std::string_view name = pattern_.substr(at_, 4);
  const std::string known = "LMNPSZ";
  if (name.size() < 4 || name[3] != '}' || known.find(name[2]) == std::string::npos)
    refuse(from, pattern_.find('}', at_) - from + 1);
  at_ += 4;
  const char category = name[2];
  const std::string newer =
      category == 'N' ? newer_code_points('D') + newer_code_points('O') : newer_code_points(category);
  return fmt::format("\\p{{{}}}{}", category, newer);
}

}  // namespace

std::string pcre2_pattern(std::string_view oniguruma, const std::string& what) {
  return Translation(oniguruma, what).run();
}

std::string pcre2_literal(std::string_view text) {
  std::string pattern;
  for (size_t at = 0; at < text.size();) {
    const size_t length = utf8_sequence_length(text.substr(at));
    pattern += literal(text.substr(at, length));
    at += length;
  }
  return pattern;
}

}  // namespace fulgurite
