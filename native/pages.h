// The memory pages of a large output that nobody has written to yet. A fresh output costs more in page faults than the
// recurrence does; pages of 2 MiB cost a fraction of them, if each is faulted once: two threads that meet in a page both get one
// and clear it, and one of the two is thrown away.
#pragma once
#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <new>

#include "threads.h"

namespace scanlib {

constexpr int64_t kHugePage = int64_t(2) << 20;

class Pages {
 public:
  using Mark = std::atomic<uint8_t>;

  // Asks for 2 MiB pages in [begin, end).
  static void advise(char *begin, char *end) {
#if defined(MADV_HUGEPAGE)
    auto from = (reinterpret_cast<uintptr_t>(begin) + 4095) & ~uintptr_t(4095);
    auto to = reinterpret_cast<uintptr_t>(end) & ~uintptr_t(4095);
    if (to > from && int64_t(to - from) >= 2 * kHugePage)
      madvise(reinterpret_cast<void *>(from), to - from, MADV_HUGEPAGE);
#else
    (void)begin, (void)end;
#endif
  }

  static int64_t count(const char *begin, const char *end) { return end > begin ? page(end - 1) - page(begin) + 1 : 0; }

  // Watches [begin, end), of which every byte will be written; `marks` has count(begin, end) entries.
  void watch(char *begin, char *end, Mark *marks) {
    begin_ = begin, end_ = end, marks_ = marks;
    for (int64_t i = 0; i < count(begin, end); ++i) new (&marks[i]) Mark(kUntouched);
  }

  bool watched() const { return marks_ != nullptr; }

  // To be called before [from, to) is written, by a thread that moves up (or down) from there: returns when its pages
  // exist. The page that comes next is fetched on the way, while other threads still write to this one.
  void reach(const char *from, const char *to, bool down) {
    const int64_t first = page(from) - page(begin_), last = page(to - 1) - page(begin_);
    for (int64_t i = first; i <= last; ++i)
      for (Backoff backoff; !fetched(i);) backoff.wait();
    const int64_t next = down ? first - 1 : last + 1;
    if (next >= 0 && next < count(begin_, end_)) fetched(next);
  }

 private:
  static constexpr uint8_t kUntouched = 0, kTouching = 1, kThere = 2;

  static int64_t page(const char *at) { return int64_t(reinterpret_cast<uintptr_t>(at) / uintptr_t(kHugePage)); }

  // Fetches page i unless another thread does; whether it is there.
  bool fetched(int64_t i) {
    uint8_t seen = marks_[i].load(std::memory_order_acquire);
    if (seen == kUntouched && marks_[i].compare_exchange_strong(seen, kTouching)) {
      char *at = reinterpret_cast<char *>((page(begin_) + i) * kHugePage);
      *static_cast<volatile char *>(at < begin_ ? begin_ : at) = 0;
      marks_[i].store(kThere, std::memory_order_release);
      return true;
    }
    return seen == kThere;
  }

  char *begin_ = nullptr, *end_ = nullptr;
  Mark *marks_ = nullptr;
};

}  // namespace scanlib
