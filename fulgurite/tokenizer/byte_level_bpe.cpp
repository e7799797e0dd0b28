#include "fulgurite/tokenizer/byte_level_bpe.h"

#include <algorithm>

#include "fulgurite/core/error.h"
#include "fulgurite/tokenizer/byte_level.h"

namespace fulgurite {
namespace {

constexpr int32_t kGone = -1;    // id of a symbol that was merged into its left neighbour
constexpr uint32_t kNone = ~0u;  // no neighbour

uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

struct ByteLevelBpe::Symbol {
  int32_t id;
  uint32_t previous, next;
};

// A merge that could be done at `position` when it was queued. Lowest rank first, then leftmost.
struct ByteLevelBpe::Merge {
  uint32_t rank;
  uint32_t position;
  int32_t id;
  bool operator<(const Merge& other) const {  // of a max-heap
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

ByteLevelBpe::ByteLevelBpe(const BpeDescription& description, const std::string& what)
    : ignore_merges_(description.ignore_merges) {
  read_vocabulary(description, what);
  read_merges(description, what);
}

void ByteLevelBpe::read_vocabulary(const BpeDescription& description, const std::string& what) {
  for (const auto& [spelling, id] : description.vocabulary) {
    if (static_cast<size_t>(id) >= bytes_.size()) bytes_.resize(static_cast<size_t>(id) + 1);
    if (bytes_[id])
      fail(ErrorKind::kConfig, "{}: \"vocab\": id {} stands twice, the second time at \"{}\"", what, id,
           printable(spelling));
    // A token with other characters spells itself; no merge leads to it.
    bytes_[id] = byte_level_bytes(spelling).value_or(spelling);
    ids_.emplace(spelling, id);
  }
  for (int byte = 0; byte < 256; ++byte) {
    const std::string spelling = byte_level_spelling(std::string(1, static_cast<char>(byte)));
    const auto id = id_of(spelling);
    if (!id)
      fail(ErrorKind::kConfig, "{}: \"vocab\": no token \"{}\", which spells the byte 0x{:02x}", what,
           spelling, byte);
    byte_ids_[byte] = *id;
  }
}

void ByteLevelBpe::read_merges(const BpeDescription& description, const std::string& what) {
  for (size_t rank = 0; rank < description.merges.size(); ++rank) {
    const auto& [left, right] = description.merges[rank];
    const uint64_t pair = pair_of(merge_token(left, rank, what), merge_token(right, rank, what));
    const Merged merged{static_cast<uint32_t>(rank), merge_token(left + right, rank, what)};
    if (!merges_.emplace(pair, merged).second)
      fail(ErrorKind::kConfig, "{}: \"merges\"[{}]: \"{}\" and \"{}\" stand twice", what, rank,
           printable(left), printable(right));
  }
}

int32_t ByteLevelBpe::merge_token(const std::string& spelling, size_t rank, const std::string& what) const {
  const auto id = id_of(spelling);
  if (!id)
    fail(ErrorKind::kConfig, "{}: \"merges\"[{}]: \"{}\" is not in the vocabulary", what, rank,
         printable(spelling));
  return *id;
}

std::optional<int32_t> ByteLevelBpe::id_of(std::string_view spelling) const {
  const auto at = ids_.find(spelling);
  return at == ids_.end() ? std::nullopt : std::optional(at->second);
}

const std::string* ByteLevelBpe::bytes_of(int32_t id) const {
  if (id < 0 || id > largest_id() || !bytes_[id]) return nullptr;
  return &*bytes_[id];
}

const ByteLevelBpe::Merged* ByteLevelBpe::merged(int32_t left, int32_t right) const {
  const auto at = merges_.find(pair_of(left, right));
  return at == merges_.end() ? nullptr : &at->second;
}

// Queues the merge of the symbol at `left` with its right neighbour, if there is one.
void ByteLevelBpe::consider(const std::vector<Symbol>& symbols, uint32_t left,
                            std::vector<Merge>& queue) const {
  if (left == kNone || symbols[left].next == kNone) return;
  const Merged* merge = merged(symbols[left].id, symbols[symbols[left].next].id);
  if (merge == nullptr) return;
  queue.push_back({merge->rank, left, merge->id});
  std::push_heap(queue.begin(), queue.end());
}

void ByteLevelBpe::merge_all(std::vector<Symbol>& symbols) const {
  std::vector<Merge> queue;
  for (uint32_t at = 0; at < symbols.size(); ++at) consider(symbols, at, queue);
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end());
    const Merge top = queue.back();
    queue.pop_back();
    Symbol& left = symbols[top.position];
    if (left.id == kGone || left.next == kNone) continue;
    Symbol& right = symbols[left.next];
    // The neighbours may have changed since. As in the Hugging Face library, another pair with the same
    // result will do.
    const Merged* now = merged(left.id, right.id);
    if (now == nullptr || now->id != top.id) continue;
    left.id = top.id;
    left.next = right.next;
    right.id = kGone;
    if (left.next != kNone) symbols[left.next].previous = top.position;
    consider(symbols, left.previous, queue);
    consider(symbols, top.position, queue);
  }
}

void ByteLevelBpe::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    if (const auto id = id_of(byte_level_spelling(piece))) return ids.push_back(*id);
  }
  std::vector<Symbol> symbols(piece.size());
  for (uint32_t at = 0; at < symbols.size(); ++at)
    symbols[at] = {byte_ids_[static_cast<unsigned char>(piece[at])], at == 0 ? kNone : at - 1,
                   at + 1 == symbols.size() ? kNone : at + 1};
  merge_all(symbols);
  for (const Symbol& symbol : symbols)
    if (symbol.id != kGone) ids.push_back(symbol.id);
}

}  // namespace fulgurite
