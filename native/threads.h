// A small pool of threads: one job at a time, safe after fork, no exceptions.
#pragma once
#include <sched.h>

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace scanlib {

// How many threads a call may use by default: SCANLIB_NUM_THREADS, else OMP_NUM_THREADS, else the cores this process may use.
int default_threads();
// How many threads a call takes that has `items` pieces of work and was asked for `asked` threads (0: the default); at least one.
int useful_threads(int asked, int64_t items);

// Calls work(context) on the calling thread and on up to threads - 1 others, and returns when all are done. The work must
// share itself out: fewer calls than asked for are always possible, down to the calling thread's alone (the pool is busy with
// another caller's job, or threads cannot be had). `openmp`: on the runtime of scanlib_cpu_set_openmp(), if one was set.
void run_on_threads(int threads, bool openmp, void (*work)(void *), void *context);

// For a loop that waits for another thread of the same call: spins at first, then lets others run, who may be keeping that
// thread from its core.
class Backoff {
 public:
  void wait() {
    if (++spins_ < kSpins) {
#if defined(__x86_64__)
      _mm_pause();
#endif
    } else {
      sched_yield();
    }
  }

 private:
  static constexpr int kSpins = 1000;
  int spins_ = 0;
};

}  // namespace scanlib
