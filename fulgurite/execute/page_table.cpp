#include "fulgurite/execute/page_table.h"

#include <algorithm>

#include "fulgurite/core/assert.h"
#include "fulgurite/core/cache_pages.h"

namespace fulgurite::execute {

PageTable::PageTable(int64_t sequences, int64_t pages_of_sequence, int64_t page_tokens, int64_t pool)
    : pages_of_sequence_(pages_of_sequence),
      page_tokens_(page_tokens),
      entries_(static_cast<size_t>(sequences * pages_of_sequence), 0),
      held_(static_cast<size_t>(sequences), 0) {
  for (int64_t page = pool - 1; page >= 0; --page) free_.push_back(static_cast<int32_t>(page));
}

int64_t PageTable::missing(int64_t sequence, int64_t tokens) const {
  if (page_tokens_ == 0) return 0;
  return std::max<int64_t>(pages_of(tokens, page_tokens_) - held_[static_cast<size_t>(sequence)], 0);
}

void PageTable::hold(int64_t sequence, int64_t tokens) {
  int64_t& held = held_[static_cast<size_t>(sequence)];
  for (int64_t count = missing(sequence, tokens); count > 0; --count) {
    FULGURITE_ASSERT(!free_.empty() && held < pages_of_sequence_, "sequence {} holds {} pages, {} are free",
                     sequence, held, free_.size());
    entries_[static_cast<size_t>(sequence * pages_of_sequence_ + held)] = free_.back();
    free_.pop_back();
    held += 1;
  }
}

void PageTable::release(int64_t sequence) {
  int64_t& held = held_[static_cast<size_t>(sequence)];
  for (; held > 0; --held) {
    int32_t& entry = entries_[static_cast<size_t>(sequence * pages_of_sequence_ + held - 1)];
    free_.push_back(entry);
    entry = 0;
  }
}

}  // namespace fulgurite::execute
