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
constexpr bool kPrefetch = SCANLIB_PREFETCH;
// What is summed of grad_a inside a tile, where `a` was broadcast.
constexpr bool kSumSteps = SCANLIB_SUM & 1, kSumLanes = SCANLIB_SUM & 2;

using Value = ElementOf<SCANLIB_VALUE>::type;  // what is computed in
using Sum = SumOf<Value>::type;
using ElementA = ElementOf<SCANLIB_A>::type;
using ElementX = ElementOf<SCANLIB_X>::type;  // x, or grad_h
using ElementH = ElementOf<SCANLIB_H>::type;
using ElementGradA = ElementOf<SCANLIB_GRAD_A>::type;
using ElementGradX = ElementOf<SCANLIB_GRAD_X>::type;

struct BlockMemory {
  ScanMemory<Value> scan;
  Exchange<Value> exchange;
  Sum sums[kSumSteps ? kWarps : 1][kWarpLanes];
  Group group;  // here it takes no registers
  long long ticket, tile;
};

// ---------------------------------------------------------------------------------------------------------------- states

__device__ __forceinline__ Value load_state(const ScanParams &p, int role, const Group &group) {
  const Operand &operand = p.operand[role];
  if (operand.dtype == 0 || lane() >= group.lanes) return Value{};
  return load_value<Value>(operand.dtype, first_of(p, operand, group) + lane() * operand.lane);
}
__device__ __forceinline__ void store_state(const ScanParams &p, int role, const Group &group, Value value) {
  const Operand &operand = p.operand[role];
  if (operand.dtype == 0 || lane() >= group.lanes) return;
  store_value(operand.dtype, first_of(p, operand, group) + lane() * operand.lane, value);
}

constexpr int kEnters = kBackward ? kGradFinal : kH0, kLeaves = kBackward ? kGradH0 : kFinal;

// ----------------------------------------------------------------------------------------------------------------- tiles

// As they come from memory, not yet converted or arranged: a load under way stalls nobody.
struct Fetched {
  ElementA a[kRun];
  ElementX x[kRun];
  ElementH h[kRun];  // backward only
};
// A thread's run. In backward x is grad_h, h the state one step before in time.
struct Run {
  Value a[kRun], x[kRun], h[kRun];
  int n;  // steps that exist
};

__device__ __forceinline__ void fetch_tile(const ScanParams &p, const Group &group, long long tile, Fetched &to) {
  const long long k0 = tile * kTileSteps, left = p.steps - k0;
  const Operand &a = p.operand[kA], &x = p.operand[kBackward ? kGradH : kX];
  const int high = steps_below(left);
  const long long ka = kBackward ? k0 - 1 : k0;
  const int low = kBackward && k0 == 0 ? 1 : 0;
  fetch(to.a, first_of(p, a, group) + ka * a.step, a, low, high, group.lanes,
        narrowed<ElementA>(unit(static_cast<Value *>(nullptr))));
  fetch(to.x, first_of(p, x, group) + k0 * x.step, x, 0, high, group.lanes, ElementX{});
  if constexpr (kBackward) {
    const Operand &h = p.operand[kH];
    fetch(to.h, first_of(p, h, group) + (k0 + 1) * h.step, h, 0, steps_below(left - 1), group.lanes, ElementH{});
  }
}

__device__ __forceinline__ Value conjugated_if(bool yes, Value value) { return yes ? conjugated(value) : value; }

__device__ __forceinline__ void arrange_tile(const ScanParams &p, long long tile, const Fetched &from, Run &run,
                                             BlockMemory &memory) {
  arrange(run.a, from.a, memory.exchange);
  arrange(run.x, from.x, memory.exchange);
  if constexpr (kBackward) {
    arrange(run.h, from.h, memory.exchange);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      run.a[i] = conjugated_if(p.conjugate, run.a[i]);
      run.h[i] = conjugated_if(p.conjugate, run.h[i]);
    }
  }
  const int left = steps_below(p.steps - tile * kTileSteps) - slice() * kRun;
  run.n = left < 0 ? 0 : left < kRun ? left : kRun;
}

// Walks a thread's run from the true state before it, stores the results, and returns the state after it. Sums of grad_a over
// the run are added to `sum`.
__device__ __forceinline__ Value finish_tile(const ScanParams &p, const Group &group, long long tile, Run &run,
                                             Value state, Sum &sum, BlockMemory &memory) {
  const long long k0 = tile * kTileSteps;
  const int high = steps_below(p.steps - k0);
  const bool owns_last = run.n > 0 && k0 + slice() * kRun + run.n == p.steps;
  if constexpr (!kBackward) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (i < run.n) state = mul_add(run.a[i], state, run.x[i]);
      run.x[i] = state;
    }
    if (owns_last) store_state(p, kFinal, group, state);
    const Operand &h = p.operand[kH];
    store_run<ElementH>(run.x, first_of(p, h, group) + k0 * h.step, h, high, group.lanes, memory.exchange);
  } else {
    const Value edge = owns_last ? conjugated_if(p.conjugate, load_state(p, kH0, group)) : Value{};
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (i < run.n) state = mul_add(run.a[i], state, run.x[i]);
      run.x[i] = state;
      run.h[i] = mul(state, owns_last && i == run.n - 1 ? edge : run.h[i]);
    }
    if (owns_last && lane() < group.lanes) {
      const Operand &a = p.operand[kA];
      const char *last = first_of(p, a, group) + (p.steps - 1) * a.step + lane() * a.lane;
      const Value factor = conjugated_if(p.conjugate, widened<Value>(load_element<ElementA>(last)));
      store_state(p, kGradH0, group, mul(factor, state));
    }
    const Operand &grad_x = p.operand[kGradX], &grad_a = p.operand[kGradA];
    store_run<ElementGradX>(run.x, first_of(p, grad_x, group) + k0 * grad_x.step, grad_x, high, group.lanes,
                            memory.exchange);
    char *first = first_of(p, grad_a, group) + k0 * grad_a.step;
    if constexpr (!kSumSteps && !kSumLanes) {
      store_run<ElementGradA>(run.h, first, grad_a, high, group.lanes, memory.exchange);
    } else if constexpr (kSumSteps) {
      Value over_run{};
#pragma unroll
      for (int i = 0; i < kRun; ++i)
        if (i < run.n) over_run = plus(over_run, run.h[i]);
      add(sum, widened<Sum>(over_run));
    } else {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        Value over_lanes = lane() < group.lanes ? run.h[i] : Value{};
#pragma unroll
        for (int bits = 1; bits < kWarpLanes; bits *= 2) over_lanes = plus(over_lanes, shuffle_xor(over_lanes, bits));
        if (lane() == 0 && i < run.n) store_element(first + (slice() * kRun + i) * grad_a.step, over_lanes);
      }
    }
  }
  return state;
}

// The sum of grad_a over the steps that the block has walked of a group since, and perhaps over its lanes: part number `part` of
// it.
__device__ __forceinline__ void store_sum(const ScanParams &p, const Group &group, long long part, Sum sum,
                                          BlockMemory &memory) {
  sum = summed_slices(sum, memory.sums);
  const Operand &grad_a = p.operand[kGradA];
  char *at = first_of(p, grad_a, group) + part * grad_a.step;
  if constexpr (!kSumLanes) {
    if (slice() == 0 && lane() < group.lanes) store_element(at + lane() * grad_a.lane, sum);
  } else {
    if (lane() >= group.lanes) sum = Sum{};
#pragma unroll
    for (int bits = 1; bits < kWarpLanes; bits *= 2) add(sum, shuffle_xor(sum, bits));
    if constexpr (kWidth > 32) {
      if (thread() % 32 == 0) memory.sums[warp()][0] = sum;
      __syncthreads();
      for (int w = 1; w < kWarps && thread() == 0; ++w) add(sum, memory.sums[w][0]);
    }
    if (thread() == 0) store_element(at, sum);
  }
}

// ------------------------------------------------------------------------------------------------------------------ walk

__device__ __forceinline__ void walk(const ScanParams &p) {
  SCANLIB_SHARED(BlockMemory, memory);
  const Group &group = memory.group;
  for (long long number = blockIdx.x; number < p.groups; number += gridDim.x) {
    __syncthreads();
    if (thread() == 0) memory.group = group_at(p, number);
    __syncthreads();
    Value carry = load_state(p, kEnters, group);
    if (p.steps == 0 && slice() == 0) store_state(p, kLeaves, group, carry);
    Sum sum{};
    Fetched now, next;
    if (kPrefetch && p.tiles > 0) fetch_tile(p, group, 0, now);
    for (long long tile = 0; tile < p.tiles; ++tile) {
      if constexpr (!kPrefetch) {
        fetch_tile(p, group, tile, now);
      } else if (tile + 1 < p.tiles) {
        fetch_tile(p, group, tile + 1, next);
      }
      Run run;
      arrange_tile(p, tile, now, run, memory);
      if constexpr (kSlices == 1) {
        carry = finish_tile(p, group, tile, run, carry, sum, memory);
      } else {
        const Prefix<Value> prefix = scanned(summarized(run.a, run.x), &memory.scan);
        const Carried<Value> carried = carried_in(prefix, carry, run.a, run.x, run.n, &memory.scan);
        finish_tile(p, group, tile, run, carried.before, sum, memory);
        carry = carried.after;
      }
      if constexpr (!kPrefetch) break;  // there is only one
      now = next;
    }
    if constexpr (kSumSteps) store_sum(p, group, 0, sum, memory);
  }
}

}  // namespace scanlib
