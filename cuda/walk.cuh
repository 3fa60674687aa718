// From operands to results: what both ways of carrying share, and the walk, in which a block has its lanes to itself and takes
// one tile after the other.
//
// Forward, step k:   h_k = a_k h_{k-1} + x_k, from h0; the last is the final state.
// Backward walks the other way. Step k has grad_x_k = a_{k-1} grad_x_{k-1} + grad_h_k, from grad_final, where the coefficient
// before the first step is one, and grad_a_k = grad_x_k h_{k+1}, where after the last stands h0; a and h conjugated where the
// caller's convention is. What is left is grad_h0 = a_last grad_x_last. So a is read one step ahead and h one step behind, and
// nothing is shifted in memory.
#pragma once
#include "scan.cuh"

namespace scanlib {

constexpr bool kBackward = SCANLIB_BACKWARD;
// What is summed of grad_a inside a tile, where `a` was broadcast.
constexpr bool kSumSteps = SCANLIB_SUM & 1, kSumLanes = SCANLIB_SUM & 2;

using Value = ElementOf<SCANLIB_VALUE>::type;  // what is computed in
using Sum = SumOf<Value>::type;
using ElementA = ElementOf<SCANLIB_A>::type;
using ElementX = ElementOf<SCANLIB_X>::type;  // x, or grad_h
using ElementH = ElementOf<SCANLIB_H>::type;
using ElementGradA = ElementOf<SCANLIB_GRAD_A>::type;
using ElementGradX = ElementOf<SCANLIB_GRAD_X>::type;

// Steps of each run that are stored at a time: 16-byte words of the largest result fill a warp.
constexpr int kLargest = !kBackward                                    ? int(sizeof(ElementH))
                         : sizeof(ElementGradX) > sizeof(ElementGradA) ? int(sizeof(ElementGradX))
                                                                       : int(sizeof(ElementGradA));
constexpr int kPiece = kRows || kRun < 16 / kLargest ? kRun : 16 / kLargest;

template <class E>
using Fetched = Part<E, kRun>;
template <class E>
using Result = Part<E, kPiece>;

// What a warp has in shared memory: the tile on its way to registers, and results on their way out. In backward x is grad_h.
// There, `a` is wanted one step before the tile and h one step behind. Columns have them moved so; in rows, which would no longer
// be aligned, the tile is moved as it lies, and the elements beside it on their own.
constexpr bool kEdges = kBackward && kRows;
template <int kBytes>
struct Buffer {
  alignas(16) char of[kBytes];
};
template <>
struct Buffer<0> {
  static constexpr char *of = nullptr;
};
struct alignas(16) WarpMemory {
  Buffer<Fetched<ElementA>::kBytes> a;
  Buffer<Fetched<ElementX>::kBytes> x;
  Buffer<kBackward ? Result<ElementGradX>::kBytes : Result<ElementH>::kBytes> first;  // h, or grad_x
  Buffer<kBackward ? Fetched<ElementH>::kBytes : 0> h;
  Buffer<kBackward && !kSumSteps && !kSumLanes ? Result<ElementGradA>::kBytes : 0> second;  // grad_a
  Buffer<kEdges ? 16 * kWarpLanes : 0> a_before, h_behind;                                  // of each lane
};

struct BlockMemory {
  WarpMemory of_warp[kWarps];
  ScanMemory<Value> scan;
};

// ---------------------------------------------------------------------------------------------------------------- states

__device__ __forceinline__ Value load_state(const ScanParams &p, int role, const Place &place) {
  const Operand &operand = p.operand[role];
  if (operand.dtype == 0 || lane() >= place.lanes) return Value{};
  return load_value<Value>(operand.dtype, global(place.first[role]) + lane() * operand.lane);
}
__device__ __forceinline__ void store_state(const ScanParams &p, int role, const Place &place, Value value) {
  const Operand &operand = p.operand[role];
  if (operand.dtype == 0 || lane() >= place.lanes) return;
  store_value(operand.dtype, global(place.first[role]) + lane() * operand.lane, value);
}

constexpr int kEnters = kBackward ? kGradFinal : kH0, kLeaves = kBackward ? kGradH0 : kFinal;

// ----------------------------------------------------------------------------------------------------------------- tiles

// A thread's run. In backward `a` is the decay one step before, x is grad_h, h the state one step before in time.
struct Run {
  Value a[kRun], x[kRun], h[kBackward ? kRun : 1];
  int n;  // steps that exist
};

// Which elements of the warp's part exist in an operand that is read `shift` steps behind the tile's.
__device__ __forceinline__ Extent extent_of(const ScanParams &p, const Place &place, long long tile, int shift) {
  const long long k0 = tile * kTileSteps + shift;
  return {(k0 < 0 ? 1 : 0) - warp_step(), steps_below(p.steps - k0) - warp_step(), place.lanes - warp_lane()};
}
// The warp's part of an operand, `steps` after those of `place`, in memory.
__device__ __forceinline__ char *part_of(const ScanParams &p, int role, const Place &place, long long steps) {
  const Operand &operand = p.operand[role];
  return global(place.first[role]) + (steps + warp_step()) * operand.step + warp_lane() * operand.lane;
}

// In rows: the element next to the thread's lane of the warp's part, at the far end of a 16-byte word of which it is an end itself, so
// that it can be copied like the others. `count`: how many there are from it on, away from the part.
template <class E, bool kBefore>
__device__ __forceinline__ char *edge_of(char *edges, int lane_) {
  return edges + 16 * lane_ + (kBefore == kDown ? 0 : 16 - int(sizeof(E)));
}
template <class E, bool kBefore>
__device__ __forceinline__ void start_edge(char *edges, const char *at, const Operand &operand, const Extent &extent,
                                           long long count) {
  const int t = thread() % 32;
  at += t * operand.lane;
  if (Fetched<E>::kWords && in_words<E>(operand, extent) && count >= 16 / int(sizeof(E))) {
    start_copy<16>(edges + 16 * t, kBefore == kDown ? at : at - 16 + sizeof(E));
  } else {
    start_copy<sizeof(E)>(edge_of<E, kBefore>(edges, t), at);
  }
}

// Starts copies of the warp's part of tile number `tile` of a group, `ahead` tiles after `place`.
__device__ __forceinline__ void start_tile(const ScanParams &p, const Place &place, long long tile, int ahead,
                                           WarpMemory &memory) {
  const int steps = ahead * kTileSteps, kX_ = kBackward ? kGradH : kX;
  const Extent extent = extent_of(p, place, tile, 0);
  constexpr int before = kBackward && !kRows ? -1 : 0, behind = kBackward && !kRows ? 1 : 0;
  start_part<ElementA>(memory.a.of, part_of(p, kA, place, steps + before), p.operand[kA],
                       extent_of(p, place, tile, before));
  start_part<ElementX>(memory.x.of, part_of(p, kX_, place, steps), p.operand[kX_], extent);
  if constexpr (kBackward)
    start_part<ElementH>(memory.h.of, part_of(p, kH, place, steps + behind), p.operand[kH],
                         extent_of(p, place, tile, behind));
  if constexpr (kEdges) {
    const int t = thread() % 32;
    const long long k0 = tile * kTileSteps + warp_step(), behind_it = p.steps - k0 - kWarpSteps;
    if (t < kWarpLanes && t < extent.lanes) {
      if (k0 > 0 && behind_it > -kWarpSteps)
        start_edge<ElementA, true>(memory.a_before.of, part_of(p, kA, place, steps - 1), p.operand[kA], extent, k0);
      if (behind_it > 0)
        start_edge<ElementH, false>(memory.h_behind.of, part_of(p, kH, place, steps + kWarpSteps), p.operand[kH],
                                    extent, behind_it);
    }
  }
}

__device__ __forceinline__ Value conjugated_if(bool yes, Value value) { return yes ? conjugated(value) : value; }

template <class E>
__device__ __forceinline__ void read_part(Value (&to)[kRun], const char *part) {
  E elements[kRun];
  Fetched<E>::read(elements, part);
#pragma unroll
  for (int i = 0; i < kRun; ++i) to[i] = widened<Value>(elements[i]);
}

// The thread's run of a tile whose copies have arrived. Where there is no step, one that changes nothing.
__device__ __forceinline__ void read_tile(const ScanParams &p, const Place &place, long long tile, WarpMemory &memory,
                                          Run &run) {
  const int left = lane() < place.lanes ? steps_below(p.steps - tile * kTileSteps) - slice() * kRun : 0;
  run.n = left < 0 ? 0 : left < kRun ? left : kRun;
  read_part<ElementX>(run.x, memory.x.of);
  if constexpr (!kBackward) {
    read_part<ElementA>(run.a, memory.a.of);
  } else {
    Value a[kRun], h[kRun];
    read_part<ElementA>(a, memory.a.of);
    read_part<ElementH>(h, memory.h.of);
    Value a_before = a[0], h_behind = h[0];
    if constexpr (kEdges) {
      const char *before = own_slice() > 0 ? memory.a.of + Fetched<ElementA>::at(own_lane(), own_slice() - 1, kRun - 1)
                                           : edge_of<ElementA, true>(memory.a_before.of, own_lane());
      const char *behind = own_slice() < kWarpSlices - 1
                               ? memory.h.of + Fetched<ElementH>::at(own_lane(), own_slice() + 1, 0)
                               : edge_of<ElementH, false>(memory.h_behind.of, own_lane());
      a_before = widened<Value>(load_element<ElementA>(before));
      h_behind = widened<Value>(load_element<ElementH>(behind));
    }
    if (slice() == 0 && tile == 0) a_before = unit(static_cast<Value *>(nullptr));
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      run.a[i] = conjugated_if(p.conjugate, !kEdges ? (i > 0 ? a[i] : a_before) : i > 0 ? a[i - 1] : a_before);
      run.h[i] = conjugated_if(p.conjugate, !kEdges ? h[i] : i < kRun - 1 ? h[i + 1] : h_behind);
    }
  }
  if (run.n < kRun) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (i < run.n) continue;
      run.a[i] = unit(static_cast<Value *>(nullptr));
      run.x[i] = Value{};
    }
  }
}

// Walks a thread's run from the true state before it, stores the results, and returns the state after it. Sums of grad_a over
// the run are added to `sum`.
__device__ __forceinline__ Value finish_tile(const ScanParams &p, const Place &place, long long tile, Run &run,
                                             Value state, Sum &sum, WarpMemory &memory) {
  const Extent extent = extent_of(p, place, tile, 0);
  const bool owns_last = run.n > 0 && tile * kTileSteps + slice() * kRun + run.n == p.steps;
  Value edge{};
  if (kBackward && owns_last) edge = conjugated_if(p.conjugate, load_state(p, kH0, place));
#pragma unroll
  for (int from = 0; from < kRun; from += kPiece) {
    if constexpr (!kBackward) {
      ElementH h[kPiece];
#pragma unroll
      for (int i = 0; i < kPiece; ++i) {
        if (from + i < run.n) state = mul_add(run.a[from + i], state, run.x[from + i]);
        h[i] = narrowed<ElementH>(state);
      }
      Result<ElementH>::write(h, memory.first.of);
      __syncwarp();
      put_part<ElementH, kPiece>(memory.first.of, part_of(p, kH, place, 0), p.operand[kH], extent, from);
      __syncwarp();
    } else {
      ElementGradX grad_x[kPiece];
      Value products[kPiece];
#pragma unroll
      for (int i = 0; i < kPiece; ++i) {
        const int k = from + i;
        if (k < run.n) state = mul_add(run.a[k], state, run.x[k]);
        grad_x[i] = narrowed<ElementGradX>(state);
        products[i] = mul(state, owns_last && k == run.n - 1 ? edge : run.h[k]);
      }
      Result<ElementGradX>::write(grad_x, memory.first.of);
      if constexpr (!kSumSteps && !kSumLanes) {
        ElementGradA grad_a[kPiece];
#pragma unroll
        for (int i = 0; i < kPiece; ++i) grad_a[i] = narrowed<ElementGradA>(products[i]);
        Result<ElementGradA>::write(grad_a, memory.second.of);
      } else if constexpr (kSumSteps) {
#pragma unroll
        for (int i = 0; i < kPiece; ++i) run.h[from + i] = products[i];
      } else {
        const Operand &grad_a = p.operand[kGradA];
        char *first = part_of(p, kGradA, place, 0);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
          Value over_lanes = lane() < place.lanes ? products[i] : Value{};
#pragma unroll
          for (int bits = 1; bits < kWarpLanes; bits *= 2) over_lanes = plus(over_lanes, shuffle_xor(over_lanes, bits));
          if (lane() == 0 && from + i < run.n)
            store_element(first + (own_slice() * kRun + from + i) * grad_a.step, over_lanes);
        }
      }
      __syncwarp();
      put_part<ElementGradX, kPiece>(memory.first.of, part_of(p, kGradX, place, 0), p.operand[kGradX], extent, from);
      if constexpr (!kSumSteps && !kSumLanes)
        put_part<ElementGradA, kPiece>(memory.second.of, part_of(p, kGradA, place, 0), p.operand[kGradA], extent, from);
      __syncwarp();
    }
  }
  if constexpr (!kBackward) {
    if (owns_last) store_state(p, kFinal, place, state);
  } else {
    if constexpr (kSumSteps) {
      Value over_run{};
#pragma unroll
      for (int i = 0; i < kRun; ++i)
        if (i < run.n) over_run = plus(over_run, run.h[i]);
      add(sum, widened<Sum>(over_run));
    }
    if (owns_last) {
      const Operand &a = p.operand[kA];
      const char *last = global(place.first[kA]) + (p.steps - 1 - tile * kTileSteps) * a.step + lane() * a.lane;
      const Value factor = conjugated_if(p.conjugate, widened<Value>(load_element<ElementA>(last)));
      store_state(p, kGradH0, place, mul(factor, state));
    }
  }
  return state;
}

// The sum of grad_a over the steps that the block has walked of a group since, and perhaps over its lanes.
__device__ __forceinline__ void store_sum(const ScanParams &p, const Place &place, Sum sum, BlockMemory &memory) {
  sum = summed_slices(sum, memory.scan.sums);
  const Operand &grad_a = p.operand[kGradA];
  char *at = global(place.first[kGradA]);
  if constexpr (!kSumLanes) {
    if (slice() == 0 && lane() < place.lanes) store_element(at + lane() * grad_a.lane, sum);
  } else {
    if (lane() >= place.lanes) sum = Sum{};
#pragma unroll
    for (int bits = 1; bits < kWarpLanes; bits *= 2) add(sum, shuffle_xor(sum, bits));
    if constexpr (kWidth > 32) {
      __syncthreads();
      if (thread() % 32 == 0) memory.scan.sums[warp()][0] = sum;
      __syncthreads();
      for (int w = 1; w < kWarps && thread() == 0; ++w) add(sum, memory.scan.sums[w][0]);
    }
    if (thread() == 0) store_element(at, sum);
  }
}

// ------------------------------------------------------------------------------------------------------------------ walk

// To the next tile, by the warp whose place it is.
__device__ __forceinline__ void advance(const ScanParams &p, Place &place) {
  const int role = thread() % 32;
  if (role < kRoles && !(kSumSteps && role == kGradA)) place.first[role] += kTileSteps * p.operand[role].step;
}

// Each warp finds its own way: where nothing is scanned, warps never wait for one another.
__device__ __forceinline__ void walk(const ScanParams &p) {
  struct Memory : BlockMemory {
    Place place[kWarps];
  };
  SCANLIB_SHARED(Memory, memory);
  Place &place = memory.place[warp()];
  WarpMemory &own = memory.of_warp[warp()];
  for (long long number = blockIdx.x; number < p.groups; number += gridDim.x) {
    __syncwarp();
    find_place<kSumSteps>(p, place, number, 0, 0);
    __syncwarp();
    Value carry = load_state(p, kEnters, place);
    if (p.steps == 0 && slice() == 0) store_state(p, kLeaves, place, carry);
    Sum sum{};
    if (p.tiles > 0) start_tile(p, place, 0, 0, own);
    for (long long tile = 0; tile < p.tiles; ++tile) {
      Run run;
      wait_for_copies();
      __syncwarp();
      read_tile(p, place, tile, own, run);
      __syncwarp();
      if (tile + 1 < p.tiles) start_tile(p, place, tile + 1, 1, own);
      if constexpr (kSlices == 1) {
        carry = finish_tile(p, place, tile, run, carry, sum, own);
      } else {
        const Prefix<Value> prefix = scanned(summarized(run.a, run.x), &memory.scan);
        if (tile > 0) carry = memory.scan.state[own_lane()];
        const Value before = carried_in(prefix.before, doubtful(prefix), carry, run.a, run.x, run.n, &memory.scan, [&] {
          if (warp() == kWarps - 1 && own_slice() == 0) memory.scan.state[own_lane()] = applied(prefix.all, carry);
        });
        finish_tile(p, place, tile, run, before, sum, own);
      }
      __syncwarp();
      advance(p, place);
      __syncwarp();
    }
    if constexpr (kSumSteps) store_sum(p, place, sum, memory);
  }
}

}  // namespace scanlib
