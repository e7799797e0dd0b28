#pragma once
// Passes of a GPU that are recorded when the session is made and then run as one (a CUDA graph): nothing in them depends on the
// host. What changes from pass to pass (tokens, places, pages) lies in memory that the host writes before.

#include <cstdint>
#include <utility>
#include <vector>

#include "fulgurite/core/memory.h"
#include "fulgurite/plan/options.h"
#include "fulgurite/plan/step.h"

namespace fulgurite::execute {

class Recording {
 public:
  Recording() = default;
  Recording(const Accelerator& accelerator, void* work) : accelerator_(&accelerator), work_(work) {}
  Recording(Recording&& other) noexcept
      : accelerator_(other.accelerator_), work_(std::exchange(other.work_, nullptr)) {}
  Recording& operator=(Recording&& other) noexcept {
    std::swap(accelerator_, other.accelerator_);
    std::swap(work_, other.work_);
    return *this;
  }
  ~Recording() {
    if (work_ != nullptr) accelerator_->release_recording(work_);
  }
  explicit operator bool() const { return work_ != nullptr; }
  void replay(void* stream) const { accelerator_->replay(work_, stream); }

 private:
  const Accelerator* accelerator_ = nullptr;
  void* work_ = nullptr;
};

// The passes of so many tokens. Without a recording (an accelerator that cannot) they are launched in turn.
struct RecordedPass {
  int64_t tokens = 0;
  Recording recording;
  std::vector<plan::RowCount> counts;  // what one replay calls, row by row of the plan
};

// Counts of tokens that passes are recorded for, ascending: 1, 2, 4, ... and the largest that a pass may bring.
std::vector<int64_t> recorded_tokens(const plan::Options& options);

}  // namespace fulgurite::execute
