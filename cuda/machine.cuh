// What the kernels need of a GPU beyond the words of CUDA C++: shuffles of whole values, copies that are under way while a thread
// goes on, mail between blocks.
//
// tests/emulation has the same names for the CPU, in a file that is included before this one.
#pragma once
#include "numbers.h"

namespace scanlib {

constexpr int kMostShared = 48 << 10;  // of a block, if nothing is asked of the driver

// Memory that is moved at once.
template <int kBytes>
struct alignas(kBytes) Bytes {
  unsigned word[kBytes / 4];
};
template <>
struct alignas(2) Bytes<2> {
  unsigned short half;
};

}  // namespace scanlib

#if !defined(SCANLIB_EMULATED)
namespace scanlib {

// Memory of a block, not initialised.
#define SCANLIB_SHARED(type, name) __shared__ type name

// The same number, of which the compiler knows nothing: what follows from it is computed where it is needed, and takes no
// registers in between.
__device__ __forceinline__ unsigned anew(unsigned value) {
  asm volatile("" : "+r"(value));
  return value;
}

// The same address, known to be one of global memory, where the compiler lost sight of it.
__device__ __forceinline__ char *global(char *at) {
  __builtin_assume(__isGlobal(at));
  return at;
}

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

// Which threads of the warp say yes, a bit for each; all 32 take part.
__device__ __forceinline__ unsigned ballot(bool yes) { return __ballot_sync(0xffffffffu, yes); }

// ---- copies from global to shared memory behind a thread's back: several are under way while it goes on

// kBytes of 2, 4, 8 or 16, to which both addresses are aligned. A thread sees its own copies when wait_for_copies() returns, and
// those of others after it has met them since.
template <int kBytes>
__device__ __forceinline__ void start_copy(void *to, const char *from) {
#if __CUDA_ARCH__ >= 800
  if constexpr (kBytes == 16) {
    // What lies beside it in 128 bytes is brought to L2 as well: a neighbour wants it, of this warp or soon.
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(unsigned(__cvta_generic_to_shared(to))),
                 "l"(from)
                 : "memory");
    return;
  } else if constexpr (kBytes >= 4) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(unsigned(__cvta_generic_to_shared(to))), "l"(from),
                 "n"(kBytes)
                 : "memory");
    return;
  }
#endif
  *static_cast<Bytes<kBytes> *>(to) = *reinterpret_cast<const Bytes<kBytes> *>(from);
}
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// ---- mail between blocks: words that are written and read whole, so that whoever sees a part sees all of it

// In global memory, past this multiprocessor's own cache, which would keep what was read too early; or in shared memory. 16-byte
// accesses are single ones for the memory model as .b128, which PTX has since CUDA 12.3.
__device__ __forceinline__ void post(Bytes<8> *to, Bytes<8> mail) {
  const unsigned long long bits = mail.word[0] | (unsigned long long)mail.word[1] << 32;
  asm volatile("st.relaxed.gpu.b64 [%0], %1;" ::"l"(to), "l"(bits) : "memory");
}
__device__ __forceinline__ void post(Bytes<16> *to, Bytes<16> mail) {
  const unsigned long long low = mail.word[0] | (unsigned long long)mail.word[1] << 32;
  const unsigned long long high = mail.word[2] | (unsigned long long)mail.word[3] << 32;
  asm volatile("{.reg .b128 mail; mov.b128 mail, {%1, %2}; st.relaxed.gpu.b128 [%0], mail;}" ::"l"(to), "l"(low),
               "l"(high)
               : "memory");
}
__device__ __forceinline__ Bytes<8> look(const Bytes<8> *at) {
  unsigned long long bits;
  asm volatile("ld.relaxed.gpu.b64 %0, [%1];" : "=l"(bits) : "l"(at) : "memory");
  return {{unsigned(bits), unsigned(bits >> 32)}};
}
__device__ __forceinline__ Bytes<16> look(const Bytes<16> *at) {
  unsigned long long low, high;
  asm volatile("{.reg .b128 mail; ld.relaxed.gpu.b128 mail, [%2]; mov.b128 {%0, %1}, mail;}"
               : "=l"(low), "=l"(high)
               : "l"(at)
               : "memory");
  return {{unsigned(low), unsigned(low >> 32), unsigned(high), unsigned(high >> 32)}};
}
// Between two looks at what other blocks, and what other warps of this one send.
__device__ __forceinline__ void wait_a_little() { __nanosleep(40); }
__device__ __forceinline__ void wait_for_a_warp() {}

}  // namespace scanlib
#endif
