// The scan of one tile in a block: threads reduce their runs, shuffles scan the slices of a warp (Kogge and Stone 1973), and
// shared memory joins warps, in order.
#pragma once
#include "summary.cuh"
#include "tile.cuh"

namespace scanlib {

// The state after step i of a run, of `count` that exist.
template <class Op, class Run>
__device__ __forceinline__ typename Op::State after(const Run &run, int i, int count, typename Op::State state) {
  if (!Op::kIdleKeeps && i >= count) return state;
  if (run.cut(i)) return run.x(i);
  return Op::step(run.a(i), state, run.x(i));
}

// A summary for each lane of each warp: most of it in one place, which takes the fewest accesses.
template <class Op, bool kChecked = Op::kChecked>
class Summaries {
  using R = typename Op::Size;
  struct alignas(16) Most {
    typename Op::Factor factor;
    typename Op::State local;
    R most_factor;
  } most_[kWarps][kWarpLanes];
  R most_local_[kWarps][kWarpLanes];

 public:
  __device__ __forceinline__ void put(int warp, int lane, const Summary<Op> &s) {
    most_[warp][lane] = {s.factor, s.local, s.most.factor};
    most_local_[warp][lane] = s.most.local;
  }
  __device__ __forceinline__ Summary<Op> of(int warp, int lane) const {
    const Most most = most_[warp][lane];
    return {most.factor, most.local, {most.most_factor, most_local_[warp][lane]}};
  }
};
template <class Op>
class Summaries<Op, false> {
  Summary<Op> all_[kWarps][kWarpLanes];

 public:
  __device__ __forceinline__ void put(int warp, int lane, const Summary<Op> &s) { all_[warp][lane] = s; }
  __device__ __forceinline__ Summary<Op> of(int warp, int lane) const { return all_[warp][lane]; }
};

template <class Op>
struct ScanMemory {
  // One after the other, with a barrier in between.
  union {
    typename If<(kSlices > 1), Summaries<Op>, int>::type of_warp;
    int doubt[kWarps][kWarpLanes];
    typename SumOf<typename Op::Element>::type sums[kWarps][kWarpLanes];
  };
  typename Op::State state[kSlices > 1 ? kWidth : 1];  // after the tile
};

// Whether the warp holds the last slices of its lanes.
__device__ __forceinline__ bool has_last_slices() { return warp() >= kWarps - kAbreast; }

// In order over the slices of each lane in a warp; the last slice has the result for all of them.
template <class Op>
__device__ __forceinline__ Summary<Op> scanned_in_warp(Summary<Op> mine) {
#pragma unroll
  for (int distance = 1; distance < kWarpSlices; distance *= 2) {
    const Summary<Op> earlier = shuffle_up(mine, distance * kWarpLanes);
    if (own_slice() >= distance) mine = joined(earlier, mine);
  }
  return mine;
}

// What the steps before the thread's slice do to a carry. The last warps, of each lane, also call whole(what the whole tile does).
// Every thread of the block takes part; starts with a barrier, for the memory may still be read.
template <class Op, class Whole>
__device__ __forceinline__ Summary<Op> scanned(Summary<Op> mine, ScanMemory<Op> *memory, Whole whole) {
  mine = scanned_in_warp(mine);
  const int lane_ = own_lane(), warp_ = warp();
  __syncthreads();
  if (own_slice() == kWarpSlices - 1) memory->of_warp.put(warp_, lane_, mine);
  __syncthreads();
  Summary<Op> before = nothing<Op>();
  if constexpr (kWarpSlices > 1) {
    const Summary<Op> earlier = shuffle_up(mine, kWarpLanes);
    if (own_slice() > 0) before = earlier;
  }
  if (warp_ >= kAbreast) {
    Summary<Op> warps = memory->of_warp.of(warp_ % kAbreast, lane_);
#pragma unroll 1  // in full, the summaries of all warps would be in registers at once
    for (int w = warp_ % kAbreast + kAbreast; w < warp_; w += kAbreast)
      warps = joined(warps, memory->of_warp.of(w, lane_));
    before = kWarpSlices > 1 ? joined(warps, before) : warps;
    if (has_last_slices()) whole(joined(warps, memory->of_warp.of(warp_, lane_)));
  } else if (kWarps == kAbreast) {
    whole(memory->of_warp.of(warp_, lane_));
  }
  return before;
}

// Whether any slice of the thread's lane says yes.
template <class Op>
__device__ __forceinline__ bool any_slice(bool yes, ScanMemory<Op> *memory) {
  int any = yes;
#pragma unroll
  for (int bits = kWarpLanes; bits < 32; bits *= 2) any |= shuffle_xor(any, bits);
  if (own_slice() == 0) memory->doubt[warp()][own_lane()] = any;
  __syncthreads();
  for (int w = warp() % kAbreast; w < kWarps; w += kAbreast) any |= memory->doubt[w][own_lane()];
  return any;
}

// Brings in the carry: the state before the thread's run. In lanes of which a thread doubts a parallel combination, which is then not
// to be relied on (a prefix is joined in another order than the whole, and may overflow where that does not), slices are
// walked one after the other, and leave the state after the tile in memory->state; `joined_ones` is called before that.
template <class Op, class Run, class JoinedOnes>
__device__ __forceinline__ typename Op::State carried_in(const Summary<Op> &prefix, bool doubt,
                                                         typename Op::State carry, const Run &run,
                                                         ScanMemory<Op> *memory, JoinedOnes joined_ones) {
  using State = typename Op::State;
  doubt = doubt || !safe_carry<Op>(carry);
  State before = slice() > 0 ? applied(prefix, carry) : carry;
  const bool any = __syncthreads_or(doubt);
  joined_ones();
  if (any) {
    const bool serial = any_slice(doubt, memory);
#pragma unroll 1
    for (int s = 0; s < kSlices; ++s) {
      if (serial && slice() == s) {
        if (s > 0) before = memory->state[lane()];
        State end = before;
#pragma unroll
        for (int i = 0; i < kRun; ++i) end = after<Op>(run, i, run.n, end);
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
    const int first = warp() % kAbreast;
    sum = memory[first][own_lane()];
    for (int w = first + kAbreast; w < kWarps; w += kAbreast) add(sum, memory[w][own_lane()]);
  }
  return sum;
}

}  // namespace scanlib
