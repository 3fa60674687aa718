// The scan of one tile in a block: threads reduce their runs, shuffles scan the slices of a warp (Kogge and Stone 1973), and
// shared memory joins warps, in order.
#pragma once
#include "summary.cuh"
#include "tile.cuh"

namespace scanlib {

// What the steps before the thread's slice do to a carry, and those of the whole tile.
template <class T>
struct Prefix {
  Summary<T> before, all;
};

template <class T>
struct ScanMemory {
  Summary<T> of_warp[kWarps][kWarpLanes];
  T state[kWarpLanes];
  int doubt[kWarps][kWarpLanes];
};

// Every thread of the block takes part; starts with a barrier, for the memory may still be read.
template <class T>
__device__ __forceinline__ Prefix<T> scanned(Summary<T> mine, ScanMemory<T> *memory) {
  const int in_warp = thread() % 32 / kWarpLanes, at = thread() % kWarpLanes;
#pragma unroll
  for (int distance = 1; distance < kWarpSlices; distance *= 2) {
    Summary<T> earlier = shuffle_up(mine, distance * kWarpLanes);
    if (in_warp >= distance) mine = joined(earlier, mine);
  }
  Summary<T> before = nothing<T>();
  if constexpr (kWarpSlices > 1) {
    Summary<T> earlier = shuffle_up(mine, kWarpLanes);
    if (in_warp > 0) before = earlier;
  }
  __syncthreads();
  if (in_warp == kWarpSlices - 1) memory->of_warp[warp()][at] = mine;
  __syncthreads();
  Summary<T> all = memory->of_warp[0][at], warps = nothing<T>();
#pragma unroll 2  // in full, the summaries of all warps would be in registers at once
  for (int w = 1; w < kWarps; ++w) {
    if (w == warp()) warps = all;
    all = joined(all, memory->of_warp[w][at]);
  }
  return {warp() > 0 ? joined(warps, before) : before, all};
}

// The states before the thread's run and after the whole tile.
template <class T>
struct Carried {
  T before, after;
};

// Whether any slice of the thread's lane says yes.
template <class T>
__device__ __forceinline__ bool any_slice(bool yes, ScanMemory<T> *memory) {
  const int at = thread() % kWarpLanes;
  int any = yes;
#pragma unroll
  for (int bits = kWarpLanes; bits < 32; bits *= 2) any |= shuffle_xor(any, bits);
  if (thread() % 32 < kWarpLanes) memory->doubt[warp()][at] = any;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) any |= memory->doubt[w][at];
  return any;
}

// Brings in the carry. In lanes where a parallel combination cannot be relied on, slices are walked one after the other.
// `n`: the thread's steps.
template <class T>
__device__ __forceinline__ Carried<T> carried_in(const Prefix<T> &prefix, T carry, const T (&a)[kRun],
                                                 const T (&x)[kRun], int n, ScanMemory<T> *memory) {
  // A prefix is joined in another order than the whole, and may overflow where that does not.
  const bool doubtful = !(safe(prefix.all) && safe(prefix.before) && safe_carry(carry));
  Carried<T> state{slice() > 0 ? applied(prefix.before, carry) : carry, applied(prefix.all, carry)};
  if (__syncthreads_or(doubtful)) {
    const bool serial = any_slice(doubtful, memory);
    for (int s = 0; s < kSlices; ++s) {
      if (serial && slice() == s) {
        if (s > 0) state.before = memory->state[lane()];
        T last = state.before;
#pragma unroll
        for (int i = 0; i < kRun; ++i)
          if (i < n) last = mul_add(a[i], last, x[i]);
        memory->state[lane()] = last;
      }
      __syncthreads();
    }
    if (serial) state.after = memory->state[lane()];
  }
  return state;
}

// The sum over the slices of each lane, in the threads of slice 0.
template <class S>
__device__ __forceinline__ S summed_slices(S sum, S (*memory)[kWarpLanes]) {
#pragma unroll
  for (int bits = kWarpLanes; bits < 32; bits *= 2) add(sum, shuffle_xor(sum, bits));
  if constexpr (kSlices > kWarpSlices) {
    const int at = thread() % kWarpLanes;
    __syncthreads();
    if (thread() % 32 < kWarpLanes) memory[warp()][at] = sum;
    __syncthreads();
    sum = memory[0][at];
    for (int w = 1; w < kWarps; ++w) add(sum, memory[w][at]);
  }
  return sum;
}

}  // namespace scanlib
