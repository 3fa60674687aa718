// Sequences that start inside the time axis: at steps of which RESET is true, or where OFFSETS says so for all lanes (native/scanlib.h).
//
// A run has a bit for each step that nothing enters of the state before it. There the factor is forget() and the state after it x as
// it is: both are chosen, never multiplied by zero, so that neither infinity nor NaN passes. What is joined from there on is 0 times
// the carry; where that is not finite the steps are walked one by one (summary.cuh), and chosen again.
//
// A mask is of the steps forward. In backward, where the coefficient of a step is that of one step before in the walk, so is what
// cuts it, and grad_a of the masked step itself is 0. Offsets are seen in the order of the walk, in which they start segments both ways:
// x of such a step already has in it what enters the segment, and what leaves the one before is found by walking up to there.
//
// Offsets may be any numbers: they decide which states belong together, and never where memory is accessed.
#pragma once
#include "tile.cuh"

namespace scanlib {

// Offset j in the order of the walk, of segments.count + 1.
__device__ __forceinline__ long long offset_of(const ScanParams &p, long long j) {
  const Operand &offsets = p.operand[kOffsets];
  const char *at = global(offsets.first) + j * offsets.step;
  const long long offset = offsets.dtype == kInt32 ? load_element<int>(at) : load_element<long long>(at);
  // Without a sign, for numbers that are none of an offset.
  return p.segments.against ? (long long)((unsigned long long)p.steps - (unsigned long long)offset) : offset;
}

// By one thread: how many offsets are before `step`, where the first `low` are, and those from `high` on are not.
__device__ __forceinline__ long long offsets_before(const ScanParams &p, long long step, long long low,
                                                    long long high) {
#pragma unroll 1
  while (low < high) {
    const long long middle = low + (high - low) / 2;
    if (offset_of(p, middle) < step)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}
// By a warp, 32 at a time: first the next ones, among which the answer is when a walk goes on, and then so many apart that they divide
// what is left.
__device__ __forceinline__ long long offsets_before(const ScanParams &p, long long step, long long low) {
  long long high = p.segments.count + 1;
#pragma unroll 1
  for (long long apart = 1; low < high; apart = (high - low + 31) / 32) {
    const long long at = low + (own_thread() + 1) * apart - 1;
    int before = at < high && offset_of(p, at) < step;
#pragma unroll
    for (int bits = 1; bits < 32; bits *= 2) before += shuffle_xor(before, bits);
    if (before < 32) {
      const long long next = low + (before + 1) * apart - 1;
      high = next < high ? next : high;
    }
    low += before * apart;
  }
  return low;
}

__device__ __forceinline__ void set_window(WithWindow<true> &place, Window window) { place.window = window; }
__device__ __forceinline__ void set_window(WithWindow<false> &, Window) {}

// By the warp whose place it is to be. The first `known` offsets are before the tile.
__device__ __forceinline__ void find_starts(const ScanParams &p, Place &place, long long tile, long long known) {
  if constexpr (kPacked) {
    if (p.steps == 0) return;
    const long long first = tile * kTileSteps, from = offsets_before(p, first, known);
    const long long to = offsets_before(p, first + kTileSteps + 1, from);
    if (own_thread() == 0) set_window(place, {from, to});
  }
}

// Of a run.
struct Starts {
  unsigned cuts;    // bit i: nothing enters step i of the state before it
  unsigned masked;  // bit i: RESET is true of step i
  long long from;   // the first offset that is not before the run

  __device__ __forceinline__ bool cut(int i) const { return kStarts && cuts >> i & 1; }
  __device__ __forceinline__ bool masked_at(int i) const { return kMasked && masked >> i & 1; }

  // Of a run of n steps. Those by offsets are added by its source.
  __device__ __forceinline__ void read_starts(const ScanParams &p, const Place &place, int n) {
    const int start = slice() * kRun;
    if constexpr (kMasked) {
      const Operand &reset = p.operand[kReset];
      const char *at = global(place.first[kReset]) + start * reset.step + lane() * reset.lane;
      masked = 0;
#pragma unroll
      for (int i = 0; i < kRun; ++i)
        if (i < n) masked |= unsigned(at[i * reset.step] != 0) << i;
      cuts = masked;
      if constexpr (kBackward) {
        const bool before = n > 0 && (start > 0 || place.tile > 0) && at[-reset.step] != 0;
        cuts = masked << 1 | unsigned(before);
        if (n < kRun) cuts &= (1u << n) - 1;
      }
    }
    if constexpr (kPacked) {
      cuts = 0;
      from = offsets_before(p, place.tile * kTileSteps + start, place.window.from, place.window.to);
    }
  }
};

// Calls use(i, ended, begun) where a segment starts at step i of a run, or right after its last one, or all steps end there: the
// numbers of the segment that ends and of the one that starts. Those in between have no steps. Any number may be none of a segment.
template <class Use>
__device__ __forceinline__ void each_start(const ScanParams &p, const Place &place, const Starts &starts, Use use) {
  const long long first = place.tile * kTileSteps + slice() * kRun;
#pragma unroll 1
  for (long long low = starts.from; low < place.window.to;) {
    const long long at = offset_of(p, low);
    if (at > first + kRun) break;
    long long next = low + 1;
#pragma unroll 1
    while (next < place.window.to && offset_of(p, next) == at) ++next;
    if (at >= first && at <= p.steps) use(int(at - first), low - 1, next - 1);
    low = next;
  }
}

}  // namespace scanlib
