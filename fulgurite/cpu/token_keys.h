#pragma once
// The keys that a token attends to, numbered in the order of its slots. Tiles of a softmax are of consecutive
// slots, and a slot need not have a key.

#include <algorithm>
#include <cstdint>

namespace fulgurite::cpu {

// Slots without a key stand together, behind the first `gap_at` keys.
struct TokenKeys {
  int64_t count = 0;
  int64_t gap_at = 0;
  int64_t gap = 0;

  // Keys in the slots before this one.
  int64_t before(int64_t slot) const {
    return std::min(count, slot <= gap_at ? slot : std::max(gap_at, slot - gap));
  }
};

// Tiles of `slots` slots, but those without a key.
class Tiles {
 public:
  Tiles(const TokenKeys& keys, int64_t slots)
      : keys_(keys),
        slots_(slots),
        ahead_((std::min(keys.gap_at, keys.count) + slots - 1) / slots),
        skipped_(std::max(int64_t{0}, (keys.gap_at + keys.gap) / slots - ahead_)) {}

  int64_t count() const {
    const int64_t slots = keys_.count > keys_.gap_at ? keys_.count + keys_.gap : keys_.count;
    return (slots + slots_ - 1) / slots_ - (keys_.count > keys_.gap_at ? skipped_ : 0);
  }
  int64_t begin(int64_t tile) const { return keys_.before(slot(tile)); }
  int64_t end(int64_t tile) const { return keys_.before(slot(tile) + slots_); }
  int64_t keys(int64_t tile) const { return end(tile) - begin(tile); }

 private:
  int64_t slot(int64_t tile) const { return (tile < ahead_ ? tile : tile + skipped_) * slots_; }

  TokenKeys keys_;
  int64_t slots_;
  int64_t ahead_;    // tiles with keys before the gap
  int64_t skipped_;  // tiles without a key after them
};

}  // namespace fulgurite::cpu
