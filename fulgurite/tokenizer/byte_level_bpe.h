#pragma once
// Byte pair encoding of one piece of text: its bytes are the first symbols, and the neighbours whose merge
// has the lowest rank become one symbol, leftmost first, until no merge applies. Time n log n in the bytes of
// the piece.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace fulgurite {

// The "model" of tokenizer.json, spelled in the byte-level alphabet.
struct BpeDescription {
  std::vector<std::pair<std::string, int32_t>> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  bool ignore_merges = false;                               // a piece that is a token needs no merges
};

class ByteLevelBpe {
 public:
  // Throws Error{kConfig}: an id twice, a byte without a token, a merge of or to an unknown token, a merge
  // twice.
  ByteLevelBpe(const BpeDescription& description, const std::string& what);

  void encode(std::string_view piece, std::vector<int32_t>& ids) const;  // appends

  std::optional<int32_t> id_of(std::string_view spelling) const;
  const std::string* bytes_of(int32_t id) const;  // nullptr: no such token
  int32_t largest_id() const { return static_cast<int32_t>(bytes_.size()) - 1; }

 private:
  struct Merged {
    uint32_t rank;
    int32_t id;
  };
  struct Merge;
  struct Symbol;
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };

  void read_vocabulary(const BpeDescription& description, const std::string& what);
  void read_merges(const BpeDescription& description, const std::string& what);
  int32_t merge_token(const std::string& spelling, size_t rank, const std::string& what) const;
  const Merged* merged(int32_t left, int32_t right) const;
  void consider(const std::vector<Symbol>& symbols, uint32_t left, std::vector<Merge>& queue) const;
  void merge_all(std::vector<Symbol>& symbols) const;

  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  std::vector<std::optional<std::string>> bytes_;  // by id
  std::array<int32_t, 256> byte_ids_{};
  std::unordered_map<uint64_t, Merged> merges_;  // by left id, right id
  bool ignore_merges_;
};

}  // namespace fulgurite
