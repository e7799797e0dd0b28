#pragma once
// Which pages of the caches' pools hold which sequence's tokens. A sequence takes pages as it grows and gives them back when it
// is reset; the last ones given back are taken first.

#include <cstdint>
#include <span>
#include <vector>

namespace fulgurite::execute {

class PageTable {
 public:
  // Of no pages (page_tokens 0) everything below is nothing.
  PageTable(int64_t sequences, int64_t pages_of_sequence, int64_t page_tokens, int64_t pool);

  // Pages that the sequence lacks to hold `tokens`.
  int64_t missing(int64_t sequence, int64_t tokens) const;
  int64_t free() const { return static_cast<int64_t>(free_.size()); }
  void hold(int64_t sequence, int64_t tokens);  // missing() of them must be free
  void release(int64_t sequence);

  // i32 [sequences, pages_of_sequence]; what a sequence does not hold is 0.
  std::span<const int32_t> entries() const { return entries_; }

 private:
  int64_t pages_of_sequence_;
  int64_t page_tokens_;
  std::vector<int32_t> entries_;
  std::vector<int64_t> held_;  // of each sequence
  std::vector<int32_t> free_;  // the last is taken first; room for all, so that nothing is allocated later
};

}  // namespace fulgurite::execute
