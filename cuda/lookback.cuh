// Few and long sequences: time is cut into tiles that any block may work on, in one pass over memory.
//
// A block draws a ticket, loads the tile of that number, and publishes what the tile does to any carry, its partial. While its
// elements stay in shared memory and registers, and those of a later tile are on their way, the state before it is found: by what is in
// joints.cuh or carriers.cuh. Before a block waits for that, it publishes the partial of the next tile: otherwise tiles would wait for
// partials of blocks that wait themselves. Blocks wait only for carriers and for lower tickets than that of the tile they are at, and whoever
// holds the lowest of those that are not done is at it, so they cannot wait in a circle, however few of them fit the device
// beside its carriers.
//
// The state before a tile is always the same expression, whoever was first, so results never depend on timing.
#pragma once
#if SCANLIB_CARRIERS
#include "carriers.cuh"
#else
#include "joints.cuh"
#endif

namespace scanlib {

struct LookBackMemory : BlockMemory {
  WarpInputs inputs[2][kWarps];  // of this tile and the next, then of this one's successor
  Place place[3];
  CarryMemory carry;
  unsigned ticket;
};
static_assert(sizeof(LookBackMemory) <= kMostShared, "a block's shared memory");
static_assert(kAbreast == 1, "a record for each lane of a warp");

// By the first warp: draws a ticket, which only its first thread has ...
__device__ __forceinline__ unsigned drawn(const ScanParams &p) { return thread() == 0 ? atomicAdd(p.tickets, 1u) : 0; }
// ... and finds the place of the tile of that number.
__device__ __forceinline__ void settle(const ScanParams &p, unsigned ticket, Place &place, LookBackMemory &memory) {
  if (thread() == 0) memory.ticket = ticket;
  __syncwarp();
  const unsigned tile = memory.ticket / unsigned(p.groups), group = memory.ticket % unsigned(p.groups);
  if (tile < p.tiles) {
    find_place<kSumSteps>(p, place, group, tile, tile);
    find_starts(p, place, tile, 0);
  } else if (thread() == 0) {
    place.tile = tile;  // none
  }
}

__device__ __forceinline__ void work_on_tiles(const ScanParams &p, LookBackMemory &memory) {
  const unsigned end_of_tiles = unsigned(p.tiles);
  auto exists = [&](const Place &place) { return unsigned(place.tile) < end_of_tiles; };
  // A turn finishes a tile, publishes the partial of the next, and draws and begins to load the one after that. The first two only lead
  // up to it. A ticket is drawn no earlier: all tiles that follow wait for its partial.
  int ahead = 2;
  Summary<Op> prefix = nothing<Op>();
  bool doubt = false;
#pragma unroll 1
  for (unsigned turn = 0;; ++turn) {
    Place &place = memory.place[turn % 3], &next = memory.place[(turn + 1) % 3], &after = memory.place[(turn + 2) % 3];
    WarpInputs &inputs = memory.inputs[turn % 2][warp()], &next_inputs = memory.inputs[(turn + 1) % 2][warp()];
    if (ahead == 0 && !exists(place)) return;
    const unsigned ticket = drawn(p);
    Looked looked;
    if (kLooksEarly && ahead == 0) take_look(p, place, looked);
    const bool has_next = ahead < 2 && exists(next);
    Run run;
    Summary<Op> next_prefix = nothing<Op>();
    bool next_doubt = false;
    unsigned count = 0;
    if (has_next) {
      wait_for_copies();
      __syncwarp();
      read_tile(p, next, next_inputs, run);
      next_prefix = scanned(summarized<Op, kRun>(run), &memory.scan, [&](const Summary<Op> &whole) {
        next_doubt = !safe(whole);
        count = publish(p, next, whole);
      });
      next_doubt = next_doubt || !safe(next_prefix);
    } else {
      __syncthreads();  // nobody is at the tile any more whose place is to be that of another
    }
    if (warp() == 0) settle(p, ticket, after, memory);
    if (ahead == 0) read_tile(p, place, inputs, run);
    __syncthreads();
    if (exists(after)) start_tile(p, after, inputs);
    if (has_next && warp() == kWarps - 1) complete(p, next, count, memory.carry);
    if (ahead == 0) {
      run.forget();
      if (!kLooksEarly) take_look(p, place, looked);
      const State carry = look_back(p, place, looked, memory.scan, memory.carry);
      const State before = carried_in(prefix, doubt, carry, run, &memory.scan, [] {});
      Sum sum{};
      const State end = finish_tile(p, place, run, before, sum, memory.results[warp()]);
      if (!place.last && slice() == kSlices - 1) tell_end(p, place, end, memory.carry);
      if constexpr (kSumSteps) store_sum(p, place, sum, memory);
    } else {
      --ahead;
    }
    prefix = next_prefix;
    doubt = next_doubt;
  }
}

__device__ __forceinline__ void walk_tiles(const ScanParams &p) {
  union Memory {
    RoleMemory role;
    LookBackMemory tiles;
  };
  SCANLIB_SHARED(Memory, memory);
  if (!was_carrier(p, memory.role)) work_on_tiles(p, memory.tiles);
}

}  // namespace scanlib
