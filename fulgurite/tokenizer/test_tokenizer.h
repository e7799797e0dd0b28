#pragma once
// For this room's tests: the repository's files, a tokenizer.json small enough to be changed at will, and
// errors as text.

#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include "fulgurite/core/json.h"
#include "fulgurite/tokenizer/byte_level.h"
#include "fulgurite/tokenizer/byte_level_bpe.h"
#include "test/paths.h"

namespace fulgurite {

inline std::string repository_file(const std::string& path) {
  std::ifstream file(std::string(test::kSourceDir) + "/" + path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The byte b has id b; then "ab" 256, "abc" 257, "bc" 258, by the merges "b c", "a b", "ab c".
inline BpeDescription small_model() {
  BpeDescription model;
  for (int byte = 0; byte < 256; ++byte)
    model.vocabulary.emplace_back(byte_level_spelling(std::string(1, static_cast<char>(byte))), byte);
  for (const char* token : {"ab", "abc", "bc"})
    model.vocabulary.emplace_back(token, static_cast<int32_t>(model.vocabulary.size()));
  model.merges = {{"b", "c"}, {"a", "b"}, {"ab", "c"}};
  return model;
}

// small_model(), pieces by white space, and the special token "<s>" 259.
inline Json small_file() {
  Json file = Json::parse(R"({"version": "1.0", "truncation": null, "padding": null, "normalizer": null,
    "added_tokens": [{"id": 259, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                      "normalized": false, "special": true}],
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\s"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
    "post_processor": null, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false, "byte_fallback": false,
              "vocab": {}, "merges": []}})");
  for (const auto& [token, id] : small_model().vocabulary) file["model"]["vocab"][token] = id;
  for (const auto& [left, right] : small_model().merges)
    file["model"]["merges"].push_back(left + " " + right);
  return file;
}

// The message of the Error that `action` throws; with its kind in front unless that is kConfig.
template <class Action>
std::string refusal(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return (error.kind() == ErrorKind::kRequest ? "request: " : "") + std::string(error.what());
  }
  return "no error";
}

}  // namespace fulgurite
