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

inline unsigned long long atomicAdd(unsigned long long *at, unsigned long long value) {
  emulated_meet();
  emulated_progress();
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

namespace scanlib {

#define SCANLIB_SHARED(type, name) type &name = *static_cast<type *>(emulated_shared(sizeof(type)))

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

inline void publish(unsigned *status, unsigned value) {
  emulated_meet();
  emulated_progress();
  __atomic_store_n(status, value, __ATOMIC_RELEASE);
  emulated_meet();
}
inline unsigned published(const unsigned *status) {
  emulated_meet();
  return __atomic_load_n(status, __ATOMIC_ACQUIRE);
}
inline void wait_a_little() { emulated_wait(); }

template <class R>
R load_record(const R *at) {
  return *at;
}

}  // namespace scanlib
