// The scan of one tile in a block: threads reduce their runs, shuffles scan the slices of a warp (Kogge and Stone 1973), and
// shared memory joins warps, in order.
#pragma once
#include "summary.cuh"
#include "tile.cuh"

namespace scanlib {

// What the steps before the thread's slice do to a carry; in the last warp also those of the whole tile.
template <class T>
struct Prefix {
  Summary<T> before, all;
};

template <class T>
struct ScanMemory {
  // One after the other, with a barrier in between.
  union {
    Summary<T> of_warp[kWarps][kWarpLanes];
    int doubt[kWarps][kWarpLanes];
    typename SumOf<T>::type sums[kWarps][kWarpLanes];
  };
  T state[kWarpLanes];  // after the tile
};

// In order over the slices of each lane in a warp; the last slice has the result for all of them.
template <class T>
__device__ __forceinline__ Summary<T> scanned_in_warp(Summary<T> mine) {
#pragma unroll
  for (int distance = 1; distance < kWarpSlices; distance *= 2) {
    const Summary<T> earlier = shuffle_up(mine, distance * kWarpLanes);
    if (own_slice() >= distance) mine = joined(earlier, mine);
  }
  return mine;
}

// Every thread of the block takes part; starts with a barrier, for the memory may still be read.
template <class T>
__device__ __forceinline__ Prefix<T> scanned(Summary<T> mine, ScanMemory<T> *memory) {
  mine = scanned_in_warp(mine);
  __syncthreads();
  if (own_slice() == kWarpSlices - 1) memory->of_warp[warp()][own_lane()] = mine;
  __syncthreads();
  Prefix<T> prefix{nothing<T>(), nothing<T>()};
  if constexpr (kWarpSlices > 1) {
    const Summary<T> earlier = shuffle_up(mine, kWarpLanes);
    if (own_slice() > 0) prefix.before = earlier;
  }
  if (warp() > 0) {
    Summary<T> warps = memory->of_warp[0][own_lane()];
#pragma unroll 1  // in full, the summaries of all warps would be in registers at once
    for (int w = 1; w < warp(); ++w) warps = joined(warps, memory->of_warp[w][own_lane()]);
    if (warp() == kWarps - 1) prefix.all = joined(warps, memory->of_warp[kWarps - 1][own_lane()]);
    prefix.before = kWarpSlices > 1 ? joined(warps, prefix.before) : warps;
  } else if (kWarps == 1) {
    prefix.all = memory->of_warp[0][own_lane()];
  }
  return prefix;
}

// Whether any slice of the thread's lane says yes.
template <class T>
__device__ __forceinline__ bool any_slice(bool yes, ScanMemory<T> *memory) {
  int any = yes;
#pragma unroll
  for (int bits = kWarpLanes; bits < 32; bits *= 2) any |= shuffle_xor(any, bits);
  if (own_slice() == 0) memory->doubt[warp()][own_lane()] = any;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) any |= memory->doubt[w][own_lane()];
  return any;
}

// Whether a parallel combination cannot be relied on, as far as the thread knows. A prefix is joined in another order than the
// whole, and may overflow where that does not.
template <class T>
__device__ __forceinline__ bool doubtful(const Prefix<T> &prefix) {
  return !safe(prefix.before) || (warp() == kWarps - 1 && !safe(prefix.all));
}

// Brings in the carry: the state before the thread's run. In lanes of which a thread doubts a parallel combination, slices are
// walked one after the other, and leave the state after the tile in memory->state; `joined_ones` is called before that. `n`: the
// thread's steps.
template <class T, class JoinedOnes>
__device__ __forceinline__ T carried_in(const Summary<T> &prefix, bool doubt, T carry, const T (&a)[kRun],
                                        const T (&x)[kRun], int n, ScanMemory<T> *memory, JoinedOnes joined_ones) {
  doubt = doubt || !safe_carry(carry);
  T before = slice() > 0 ? applied(prefix, carry) : carry;
  const bool any = __syncthreads_or(doubt);
  joined_ones();
  if (any) {
    const bool serial = any_slice(doubt, memory);
    for (int s = 0; s < kSlices; ++s) {
      if (serial && slice() == s) {
        if (s > 0) before = memory->state[lane()];
        T end = before;
#pragma unroll
        for (int i = 0; i < kRun; ++i)
          if (i < n) end = mul_add(a[i], end, x[i]);
        memory->state[lane()] = end;
      }
      __syncthreads();
    }
  }
  return before;
}

// The sum over the slices of each lane, in the threads of slice 0.
template <class S>
__device__ __forceinline__ S summed_slices(S sum, S (*memory)[kWarpLanes]) {
#pragma unroll
  for (int bits = kWarpLanes; bits < 32; bits *= 2) add(sum, shuffle_xor(sum, bits));
  if constexpr (kSlices > kWarpSlices) {
    __syncthreads();
    if (own_slice() == 0) memory[warp()][own_lane()] = sum;
    __syncthreads();
    sum = memory[0][own_lane()];
    for (int w = 1; w < kWarps; ++w) add(sum, memory[w][own_lane()]);
  }
  return sum;
}

}  // namespace scanlib
