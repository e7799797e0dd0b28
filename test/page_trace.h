#pragma once
// Memory that notes which of its pages are read, as a cache of so many pages would have to fetch them: a page is
// closed until it is touched, and closed again once `open` others were opened after it.

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fulgurite::test {

class PageTrace {
 public:
  static constexpr int64_t kPage = 4096;

  // At least `bytes`, zeroed. One trace watches at a time, and one thread reads.
  explicit PageTrace(int64_t bytes) : pages_((bytes + kPage - 1) / kPage) {
    data_ = static_cast<std::byte*>(
        mmap(nullptr, size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  }
  PageTrace(const PageTrace&) = delete;
  PageTrace& operator=(const PageTrace&) = delete;
  ~PageTrace() { munmap(data_, size()); }

  std::byte* data() const { return data_; }
  int64_t pages() const { return pages_; }

  // The pages that body() opens, in order.
  template <class Body>
  std::vector<int64_t> opened_by(int64_t open, const Body& body) {
    opened_.assign(static_cast<size_t>(64 * pages_), 0);
    count_ = 0;
    open_ = open;
    active_ = this;
    struct sigaction action = {}, before = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, &before);
    mprotect(data_, size(), PROT_NONE);
    body();
    mprotect(data_, size(), PROT_READ | PROT_WRITE);
    sigaction(SIGSEGV, &before, nullptr);
    active_ = nullptr;
    opened_.resize(static_cast<size_t>(count_));
    return opened_;
  }

 private:
  size_t size() const { return static_cast<size_t>(pages_ * kPage); }

  static void on_fault(int, siginfo_t* info, void*) {
    const int64_t at = static_cast<std::byte*>(info->si_addr) - active_->data_;
    if (at < 0 || at >= active_->pages_ * kPage || !active_->open_page(at / kPage)) _exit(139);
  }
  bool open_page(int64_t page) {
    if (count_ == static_cast<int64_t>(opened_.size())) return false;
    if (count_ >= open_) protect(opened_[static_cast<size_t>(count_ - open_)], PROT_NONE);
    opened_[static_cast<size_t>(count_++)] = page;
    protect(page, PROT_READ);
    return true;
  }
  void protect(int64_t page, int how) { mprotect(data_ + page * kPage, kPage, how); }

  static inline PageTrace* active_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t pages_, open_ = 0, count_ = 0;
  std::vector<int64_t> opened_;
};

}  // namespace fulgurite::test
