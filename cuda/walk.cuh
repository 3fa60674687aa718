// The walk: a block has its lanes to itself and takes one tile after the other.
#pragma once
#include "run.cuh"

namespace scanlib {

// The tile after `place`'s, by the warp whose place it is.
__device__ __forceinline__ void advance(const ScanParams &p, const Place &place, Place &next) {
  if constexpr (kPacked) find_starts(p, next, place.tile + 1, place.window.from);
  const int role = int(thread() % 32);
  if (role >= kPlaces) return;
  const bool stays = (kSumSteps && role == kGradA) || by_segments(role);
  next.first[role] = place.first[role] + (stays ? 0 : kTileSteps * p.operand[role].step);
  if (role > 0) return;
  next.group = place.group;
  next.tile = place.tile + 1;
  next.lanes = place.lanes;
  measure(p, next);
}

// Where nothing is scanned, each warp finds its own way, and warps never wait for one another. Otherwise the last one finds it for
// all of them: the places that it writes are read after barriers of the scan.
constexpr bool kAlone = kSlices == 1;
__device__ __forceinline__ void meet() {
  if constexpr (kAlone)
    __syncwarp();
  else
    __syncthreads();
}

struct WalkMemory : BlockMemory {
  WarpInputs inputs[kWarps];
  Place place[kAlone ? kWarps : 1][3];  // of this tile, the next and the one after it
};
static_assert(sizeof(WalkMemory) <= kMostShared, "a block's shared memory");

__device__ __forceinline__ void walk(const ScanParams &p) {
  SCANLIB_SHARED(WalkMemory, memory);
  WarpInputs &inputs = memory.inputs[warp()];
  WarpResults &results = memory.results[warp()];
  const bool finds = kAlone || warp() == kWarps - 1;
  for (long long number = blockIdx.x; number < p.groups; number += gridDim.x) {
    Place *place = memory.place[kAlone ? warp() : 0], *next = place + 1, *later = next + 1;
    meet();
    if (finds) {
      find_place<kSumSteps>(p, *place, number, 0, 0);
      find_starts(p, *place, 0, 0);
      __syncwarp();
      advance(p, *place, *next);
    }
    meet();
    State carry = load_state(p, kEnters, *place);
    if (p.steps == 0 && slice() == 0) {
      store_state(p, kLeaves, *place, carry);
      pass_through(p, *place, 0, p.segments.count);
    }
    Sum sum{};
    if (p.tiles > 0) start_tile(p, *place, inputs);
    for (long long tile = 0; tile < p.tiles; ++tile) {
      Run run;
      wait_for_copies();
      __syncwarp();
      read_tile(p, *place, inputs, run);
      __syncwarp();
      if (tile + 1 < p.tiles) start_tile(p, *next, inputs);
      if constexpr (kAlone) {
        advance(p, *next, *later);
        carry = finish_tile(p, *place, run, carry, sum, results);
      } else {
        Summary<Op> all = nothing<Op>();  // of the tile, in the last warps
        const Summary<Op> prefix =
            scanned(summarized<Op, kRun>(run), &memory.scan, [&](const Summary<Op> &whole) { all = whole; });
        run.forget();
        if (finds) advance(p, *next, *later);
        if (tile > 0) carry = memory.scan.state[lane()];
        const State before = carried_in(prefix, !safe(prefix) || !safe(all), carry, run, &memory.scan, [&] {
          if (has_last_slices() && own_slice() == 0) memory.scan.state[lane()] = applied(all, carry);
        });
        finish_tile(p, *place, run, before, sum, results);
      }
      Place *done = place;
      place = next;
      next = later;
      later = done;
    }
    if constexpr (kSumSteps) store_sum(p, *place, sum, memory);
  }
}

}  // namespace scanlib
