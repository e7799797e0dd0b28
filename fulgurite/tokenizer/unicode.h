#pragma once
// What the tokenizer must know of Unicode itself. The Hugging Face library splits text by Unicode 16, so the
// ids of a character that is newer than the tables of PCRE2 (10.42: Unicode 14) would differ; here they do
// not.

#include <string>
#include <string_view>

namespace fulgurite {

// Property White_Space: what \s means. `character` is one UTF-8 sequence.
bool is_white_space(std::string_view character);

// The code points that Unicode 15.0 to 16.0 assigned to a general category, as ranges for a PCRE2 character
// class. L, M, P and S are the major categories, D and O are Nd and No.
std::string newer_code_points(char category);

// The inside of a PCRE2 character class: the word characters of UTS #18.
std::string word_characters();

}  // namespace fulgurite
