// Work in pieces that depend on each other in the order of time: threads and memory for it, and carries on their way.
//
// Work is cut into chains, each of which is walked piece by piece: turn 0, turn 1 and so on.
// A piece takes the carry of the one before it and passes its own on, one after the other, so that bits do not depend on who
// was first. Pieces are handed out in the order of their turns: whoever waits, waits for one that is already running.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "scanlib.h"
#include "scratch.h"
#include "threads.h"

namespace scanlib {

constexpr int64_t kStackBytes = 16 * 1024;

// Calls body.open(arena) with `shared` bytes, then body.work(arena) on up to `workers` threads, each with `own` bytes of its own,
// and then body.close(). SCANLIB_E_MEMORY before any of it where there is no memory.
template <class Body>
int run_pieces(Body &body, int workers, bool openmp, int64_t shared, int64_t own) {
  alignas(64) char stack[kStackBytes];
  const int64_t room = shared + workers * own;
  char *const heap = room > kStackBytes ? static_cast<char *>(std::aligned_alloc(64, size_t(room))) : nullptr;
  if (room > kStackBytes && !heap) return SCANLIB_E_MEMORY;
  Arena arena(heap ? heap : stack);
  body.open(arena);
  struct Crew {
    Body &body;
    char *memory;
    int64_t own;
    std::atomic<int> next{0};
  } crew{body, (heap ? heap : stack) + shared, own};
  auto work = [](void *context) {
    Crew &mine = *static_cast<Crew *>(context);
    Arena memory(mine.memory + mine.next.fetch_add(1) * mine.own);
    mine.body.work(memory);
  };
  run_on_threads(workers, openmp, work, &crew);
  body.close();
  std::free(heap);
  return SCANLIB_OK;
}

template <class S>
class Relay {
 public:
  static int64_t room(int64_t chains, int64_t lanes) {
    return Arena::room<S>(chains * lanes) + Arena::room<std::atomic<int64_t>>(chains);
  }
  // `lanes`: the most of a carry.
  void open(Arena &arena, int64_t chains, int64_t lanes) {
    lanes_ = lanes;
    carries_ = arena.take<S>(chains * lanes);
    passed_ = arena.take<std::atomic<int64_t>>(chains);
    for (int64_t i = 0; i < chains; ++i) new (&passed_[i]) std::atomic<int64_t>(0);
  }

  // The number of the next piece. There are as many in a turn as chains, or as sets of chains that are walked together.
  int64_t next() { return next_.fetch_add(1); }

  // Of turn 1 or later: what the piece before has passed on.
  void receive(int64_t chain, int64_t turn, int64_t lanes, S *carry) const {
    for (Backoff backoff; passed_[chain].load(std::memory_order_acquire) != turn;) backoff.wait();
    std::memcpy(static_cast<void *>(carry), carries_ + chain * lanes_, size_t(lanes) * sizeof(S));
  }
  // After that of the piece before was received.
  void pass_on(int64_t chain, int64_t turn, int64_t lanes, const S *carry) {
    std::memcpy(static_cast<void *>(carries_ + chain * lanes_), carry, size_t(lanes) * sizeof(S));
    passed_[chain].store(turn + 1, std::memory_order_release);
  }

 private:
  int64_t lanes_ = 0;
  S *carries_ = nullptr;                    // one of each chain, which its pieces write one after the other
  std::atomic<int64_t> *passed_ = nullptr;  // pieces of each chain that have passed theirs on
  std::atomic<int64_t> next_{0};
};

}  // namespace scanlib
