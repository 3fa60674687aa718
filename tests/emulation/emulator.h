// CUDA C++ for a CPU: what the device code in cuda/ uses of it, in C++17. Included ahead of cuda/scanlib.cu, which then compiles
// as it stands into a shared library; emulator.cpp runs it.
//
// A thread is a fiber. Between two waits it runs alone, so what can go wrong between threads is the order of their waits, which
// the emulator shuffles, and accesses that no barrier and no publication orders, which the thread sanitizer sees.
#pragma once
#include <math.h>
#include <stddef.h>
#include <string.h>

#define SCANLIB_EMULATED 1
#define __device__
#define __global__ __attribute__((visibility("default")))
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__ &  // of the argument, which is const and constant during a launch

extern "C" {
struct EmulatedIndex {
  unsigned x;
};
struct EmulatedThread {
  EmulatedIndex thread, block, grid;
  // Copies under way.
  static constexpr int kMostCopies = 128;
  struct {
    void *to;
    const void *from;
    size_t bytes;
  } copy[kMostCopies];
  int copies = 0;
};
extern EmulatedThread *emulated_self;
EmulatedThread *emulated_find_self();

// Of a block, of a warp; the second also tells whether any of the block said yes.
void emulated_barrier();
int emulated_barrier_or(int yes);
void emulated_warp_barrier();
// Gives `size` bytes and takes those of another thread of the warp; all 32 take part.
void emulated_exchange(const void *given, void *taken, size_t size, int from);
// A block's memory, the same for all its threads, filled with what nobody wrote.
void *emulated_shared(size_t size);
// Lets others run: while waiting for them, and now and then anyway, where threads of different blocks meet.
void emulated_wait();
void emulated_meet();
int emulated_coin();
// Ends the launch.
void emulated_fault(const char *what);
// Something happened that a waiting thread may be waiting for.
void emulated_progress();
}

#if defined(__SANITIZE_THREAD__)  // which would take the pointer for memory that threads share
#define EMULATED_SELF emulated_find_self()
#else
#define EMULATED_SELF emulated_self
#endif
#define threadIdx (EMULATED_SELF->thread)
#define blockIdx (EMULATED_SELF->block)
#define gridDim (EMULATED_SELF->grid)

inline void __syncthreads() { emulated_barrier(); }
inline int __syncthreads_or(int yes) { return emulated_barrier_or(yes); }
inline void __syncwarp() { emulated_warp_barrier(); }

inline unsigned atomicAdd(unsigned *at, unsigned value) {
  emulated_meet();
  emulated_progress();
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

namespace scanlib {

#define SCANLIB_SHARED(type, name) type &name = *static_cast<type *>(emulated_shared(sizeof(type)))

inline char *global(char *at) { return at; }
inline unsigned anew(unsigned value) { return value; }

template <class V>
V shuffle_up(V value, int distance) {
  const int lane = int(threadIdx.x % 32);
  V taken;
  emulated_exchange(&value, &taken, sizeof value, lane < distance ? lane : lane - distance);
  return taken;
}
template <class V>
V shuffle_xor(V value, int bits) {
  V taken;
  emulated_exchange(&value, &taken, sizeof value, int(threadIdx.x % 32) ^ bits);
  return taken;
}

inline unsigned ballot(bool yes) {
  unsigned all = unsigned(yes) << threadIdx.x % 32;
  for (int bits = 1; bits < 32; bits *= 2) all |= shuffle_xor(all, bits);
  return all;
}

// A copy happens at once, or not before it is waited for: a coin decides.
template <int kBytes>
void start_copy(void *to, const char *from) {
  EmulatedThread &self = *emulated_find_self();
  if (self.copies == EmulatedThread::kMostCopies) __builtin_abort();
  if ((reinterpret_cast<size_t>(to) | reinterpret_cast<size_t>(from)) % kBytes)
    emulated_fault("a copy that is not aligned");
  if (emulated_coin())
    memcpy(to, from, kBytes);
  else
    self.copy[self.copies++] = {to, from, kBytes};
}
inline void wait_for_copies() {
  EmulatedThread &self = *emulated_find_self();
  for (int i = 0; i < self.copies; ++i) memcpy(self.copy[i].to, self.copy[i].from, self.copy[i].bytes);
  self.copies = 0;
}

// Nothing of what else a thread has written is ordered by it: the parts of a word are relaxed, and together only because no other
// thread runs in between.
template <class Word>
void post(Word *to, Word mail) {
  emulated_meet();
  emulated_progress();
  for (size_t i = 0; i < sizeof(Word) / 4; ++i) __atomic_store_n(&to->word[i], mail.word[i], __ATOMIC_RELAXED);
  emulated_meet();
}
template <class Word>
Word look(const Word *at) {
  emulated_meet();
  Word mail;
  for (size_t i = 0; i < sizeof(Word) / 4; ++i) mail.word[i] = __atomic_load_n(&at->word[i], __ATOMIC_RELAXED);
  return mail;
}
inline void wait_a_little() { emulated_wait(); }
inline void wait_for_a_warp() { emulated_wait(); }

}  // namespace scanlib
