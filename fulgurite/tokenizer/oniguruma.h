#pragma once
// The patterns of tokenizer.json are written for Oniguruma (Ruby syntax). Where that and PCRE2 agree on the
// letters of a pattern they need not agree on its meaning: \s, \w and \h, ^ and $, {n,m}+, nested classes. So
// a pattern is read here, and written again for PCRE2 from the part of the language whose meaning is known;
// the rest is refused by name.

#include <string>
#include <string_view>

namespace fulgurite {

// Throws Error{kConfig}: `WHAT: "PATTERN": \h at offset 12 is not supported`.
std::string pcre2_pattern(std::string_view oniguruma, const std::string& what);

// A pattern that matches `text` alone.
std::string pcre2_literal(std::string_view text);

}  // namespace fulgurite
