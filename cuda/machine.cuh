// What the kernels need of a GPU beyond the words of CUDA C++: shuffles of whole values, publication between blocks.
//
// tests/emulation has the same names for the CPU and includes itself before this file.
#pragma once
#include "numbers.h"

#if !defined(SCANLIB_EMULATED)
namespace scanlib {

// Memory of a block, not initialised.
#define SCANLIB_SHARED(type, name) __shared__ type name

// A value word by word through `shuffle`, which takes one word from another thread. V is a struct of 32-bit words.
template <class V, class Shuffle>
__device__ __forceinline__ V word_by_word(V value, Shuffle shuffle) {
  constexpr int kWords = sizeof(V) / 4;
  union Words {
    V value;
    unsigned word[kWords];
  } words;
  words.value = value;
#pragma unroll
  for (int i = 0; i < kWords; ++i) words.word[i] = shuffle(words.word[i]);
  return words.value;
}

// The value of the thread `distance` lanes lower in the warp; of the thread whose lane differs in these bits. All 32 threads
// take part.
template <class V>
__device__ __forceinline__ V shuffle_up(V value, int distance) {
  return word_by_word(value, [=](unsigned word) { return __shfl_up_sync(0xffffffffu, word, distance); });
}
template <class V>
__device__ __forceinline__ V shuffle_xor(V value, int bits) {
  return word_by_word(value, [=](unsigned word) { return __shfl_xor_sync(0xffffffffu, word, bits); });
}

// A block that has seen `value` in a status word also sees everything that was written before it was stored: by the storing
// thread, and by threads that met it at a barrier since.
__device__ __forceinline__ void publish(unsigned *status, unsigned value) {
  asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(status), "r"(value) : "memory");
}
__device__ __forceinline__ unsigned published(const unsigned *status) {
  unsigned value;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(status) : "memory");
  return value;
}
// Between two looks at a status word.
__device__ __forceinline__ void wait_a_little() { __nanosleep(40); }

// What another block has published: past this multiprocessor's own cache, which would keep lines read too early.
template <class R>
__device__ __forceinline__ R load_record(const R *at) {
  return __ldcg(at);
}

}  // namespace scanlib
#endif

namespace scanlib {

template <class R>
__device__ __forceinline__ Complex<R> load_record(const Complex<R> *at) {
  const R *parts = reinterpret_cast<const R *>(at);
  return {load_record(parts), load_record(parts + 1)};
}

}  // namespace scanlib
