// Blocks that look for themselves at what comes before a tile, and join it (decoupled look-back, Merrill and Garland 2016).
//
// kBundle tiles form a bundle, kBundle bundles a stack, kBundle stacks a pile, and a tile joins
//
//   the last state of the pile before | the stacks before it in its pile | the bundles before it in its stack | the tiles before it
//
// each of which somebody published: every tile its partial, whoever publishes the last partial of a bundle the aggregate of
// that bundle, likewise of a stack, and every tile, when its walk is done, its last state. Where such a combination cannot be
// relied on (summary.cuh), the carry is the last state of the tile before, and tiles follow one another as in a serial loop.
#pragma once
#include "records.cuh"

namespace scanlib {

constexpr unsigned kBundle = SCANLIB_BUNDLE;
static_assert(kBundle > 1, "what is looked back on");

struct CarryMemory {
  unsigned count;
  State from[kWarpLanes], carry[kWarpLanes];
};

__device__ __forceinline__ RecordMail::Word *own_partial(const ScanParams &p, const Place &place) {
  return mail_at<RecordMail>(p.partials, number_of(p, place), lane());
}
__device__ __forceinline__ StateMail::Word *end_at(const ScanParams &p, unsigned number) {
  return mail_at<StateMail>(p.ends, number, lane());
}
// Waits for a state that was looked at before.
__device__ __forceinline__ State end_of(const ScanParams &p, unsigned number, StateMail &mail) {
  while (!mail.there()) {
    wait_a_little();
    mail.receive(end_at(p, number));
  }
  return mail.content;
}

// What is joined: the records of `stacks` stacks before number `stack`, then of `bundles` bundles before number `bundle`, and then of
// `tiles` tiles before number `tile`; at most kMost, by kTakers threads of a lane, of which those have records that come first.
template <unsigned kMost, unsigned kTakers>
struct Joint {
  unsigned stack, stacks, bundle, bundles, tile, tiles;

  static constexpr unsigned kEach = (kMost + kTakers - 1) / kTakers;
  // Looked at together: what fits 16 registers.
  static constexpr unsigned kAtOnce = RecordMail::kWords > 1 ? 1 : kEach < 4 ? kEach : kEach % 3 ? 4 : 3;

  struct Mails {
    RecordMail of[kAtOnce];
  };

  __device__ __forceinline__ unsigned count() const { return stacks + bundles + tiles; }
  // How many of them have any.
  __device__ __forceinline__ unsigned takers() const { return (count() + kEach - 1) / kEach; }
  // Whether a taker has record i of those that it looks at together, from its record `begin` on.
  __device__ __forceinline__ bool has(unsigned taker, unsigned begin, unsigned i) const {
    return begin + i < kEach && taker * kEach + begin + i < count();
  }
  __device__ __forceinline__ void look(const ScanParams &p, unsigned group, unsigned taker, unsigned begin,
                                       Mails &mails) const {
#pragma unroll
    for (unsigned i = 0; i < kAtOnce; ++i) {
      mails.of[i] = {};  // nothing of an earlier look is kept
      mails.of[i].tag_all(1);
      if (!has(taker, begin, i)) continue;
      const unsigned record = taker * kEach + begin + i;
      char *records = p.partials;
      unsigned number = tile - count() + record;
      if (record < stacks)
        records = p.stacks, number = stack - stacks + record;
      else if (record < stacks + bundles)
        records = p.bundles, number = bundle - stacks - bundles + record;
      mails.of[i].receive(mail_at<RecordMail>(records, number * unsigned(p.groups) + group, lane()));
    }
  }
  // All of one taker. kLooked: which has looked at the first of them already.
  template <bool kLooked>
  __device__ __forceinline__ Summary<Op> of(const ScanParams &p, unsigned group, unsigned taker, Mails &mails) const {
    Summary<Op> mine = nothing<Op>();
#pragma unroll 1
    for (unsigned begin = 0; begin < kEach; begin += kAtOnce) {
      for (bool looked = kLooked && begin == 0;; looked = false) {
        if (!kLooked || !looked) look(p, group, taker, begin, mails);
        bool whole = true;
#pragma unroll
        for (unsigned i = 0; i < kAtOnce; ++i) whole = whole && mails.of[i].there();
        if (whole) break;
        wait_a_little();
      }
#pragma unroll
      for (unsigned i = 0; i < kAtOnce; ++i)
        if (has(taker, begin, i)) mine = joined(mine, opened(mails.of[i]));
    }
    return mine;
  }
};

using OfBundle = Joint<kBundle, kWarpSlices>;
using OfTile = Joint<3 * kBundle - 3, kSlices>;

// By the last warp: publishes the partial of a tile, and counts those of its bundle, in its first thread ...
__device__ __forceinline__ unsigned publish(const ScanParams &p, const Place &place, const Summary<Op> &whole) {
  if (own_slice() == 0) send_summary(own_partial(p, place), whole);
  const unsigned bundle = unsigned(place.tile) / kBundle * unsigned(p.groups) + unsigned(place.group);
  return own_thread() == 0 ? atomicAdd(p.counts + bundle, 1u) : 0;
}
__device__ __forceinline__ bool was_last(unsigned count, CarryMemory &memory) {
  __syncwarp();
  if (own_thread() == 0) memory.count = count;
  __syncwarp();
  return memory.count == kBundle - 1;
}
// ... and where that was the last one publishes the aggregate, and likewise that of the stack. The other records are there or on
// their way.
__device__ __forceinline__ void complete(const ScanParams &p, const Place &place, unsigned count, CarryMemory &memory) {
  if (!was_last(count, memory)) return;
  const unsigned groups = unsigned(p.groups), group = unsigned(place.group);
  unsigned number = unsigned(place.tile) / kBundle;  // of a bundle, then of a stack
#pragma unroll 1
  for (bool of_stack = false;; of_stack = true) {
    const unsigned end = (number + 1) * kBundle;
    const OfBundle joint{0, 0, end, of_stack ? kBundle : 0, end, of_stack ? 0 : kBundle};
    OfBundle::Mails mails;
    Summary<Op> mine = joint.of<false>(p, group, own_slice(), mails);
    __syncwarp();
    mine = scanned_in_warp(mine);
    if (own_slice() == kWarpSlices - 1)
      send_summary(mail_at<RecordMail>(of_stack ? p.stacks : p.bundles, number * groups + group, lane()), mine);
    if (of_stack) return;
    number /= kBundle;
    if (own_thread() == 0) count = atomicAdd(p.stack_counts + number * groups + group, 1u);
    if (!was_last(count, memory)) return;
  }
}

// What a look has found of what a tile looks back on.
struct Looked {
  OfTile::Mails mails;
  StateMail state;  // before the pile
};
// Long before it is needed: elsewhere that costs more registers, and time, than it saves (docs/gpu-log.md).
constexpr bool kLooksEarly = OfTile::kEach == 1 && kRun < 32;
__device__ __forceinline__ OfTile joint_of(unsigned tile) {
  const unsigned bundle = tile / kBundle, stack = bundle / kBundle;
  return {stack, stack % kBundle, bundle, bundle % kBundle, tile, tile % kBundle};
}
__device__ __forceinline__ int warps_of(const OfTile &joint) {
  return int((joint.takers() + kWarpSlices - 1) / kWarpSlices);
}
// Whether a thread takes the state before the pile; of a warp that has no records of most tiles.
__device__ __forceinline__ bool takes_state() {
  return warp() == (kWarps > 2 ? kWarps - 2 : 0) && own_thread() < kWarpLanes;
}
// Of the last tile of the pile before; none in the first one.
__device__ __forceinline__ bool has_pile_before(unsigned tile) { return tile >= kBundle * kBundle * kBundle; }
__device__ __forceinline__ unsigned end_of_pile_before(const ScanParams &p, const Place &place) {
  const unsigned in_pile = unsigned(place.tile) % (kBundle * kBundle * kBundle);
  return number_of(p, place) - (in_pile + 1) * unsigned(p.groups);
}
__device__ __forceinline__ void take_look(const ScanParams &p, const Place &place, Looked &looked) {
  looked = {};
  const unsigned tile = unsigned(place.tile);
  if (takes_state() && has_pile_before(tile)) looked.state.receive(end_at(p, end_of_pile_before(p, place)));
  const OfTile joint = joint_of(tile);
  if (kLooksEarly && warp() < warps_of(joint)) joint.look(p, unsigned(place.group), slice(), 0, looked.mails);
}

// The state before a tile, which has published its partial.
__device__ __forceinline__ State look_back(const ScanParams &p, const Place &place, Looked &looked,
                                           ScanMemory<Op> &scan, CarryMemory &memory) {
  const unsigned tile = unsigned(place.tile);
  if (takes_state()) {
    memory.from[own_lane()] =
        has_pile_before(tile) ? end_of(p, end_of_pile_before(p, place), looked.state) : load_state(p, kEnters, place);
  }
  const OfTile joint = joint_of(tile);
  const int warps = warps_of(joint);
  Summary<Op> mine;
  if (warp() < warps) {
    mine = joint.of<kLooksEarly>(p, unsigned(place.group), slice(), looked.mails);
    __syncwarp();
    mine = scanned_in_warp(mine);
  }
  __syncthreads();
  if (warp() < warps && own_slice() == kWarpSlices - 1) scan.of_warp.put(warp(), own_lane(), mine);
  __syncthreads();
  if (thread() < kWarpLanes) {
    Summary<Op> since = nothing<Op>();
#pragma unroll 1
    for (int w = 0; w < warps; ++w) {
      const Summary<Op> next = scan.of_warp.of(w, own_lane());
      since = w > 0 ? joined(since, next) : next;
    }
    State carry = memory.from[own_lane()];
    if (tile > 0 && !(safe(since) && safe_carry<Op>(carry))) {
      StateMail before = {};
      carry = end_of(p, number_of(p, place) - unsigned(p.groups), before);
    } else if (joint.count() > 0) {
      carry = applied(since, carry);
    }
    memory.carry[own_lane()] = carry;
  }
  __syncthreads();
  return memory.carry[own_lane()];
}

// By the threads of a tile's last slice: its last state.
__device__ __forceinline__ void tell_end(const ScanParams &p, const Place &place, State end, const CarryMemory &) {
  send_state(end_at(p, number_of(p, place)), end, 1);
}

struct RoleMemory {};
__device__ __forceinline__ bool was_carrier(const ScanParams &, RoleMemory &) { return false; }

}  // namespace scanlib
