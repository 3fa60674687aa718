// Few and long sequences: time is cut into tiles that any block may work on, in one pass over memory (decoupled look-back,
// Merrill and Garland 2016).
//
// A block draws a ticket, loads the tile of that number, and publishes what the tile does to any carry, its partial. It finds
// its own carry in what earlier tiles have published, while its elements stay in registers and those of its next tile are on
// their way. Blocks wait only for lower tickets than that of the tile they are at, and whoever holds the lowest of those that are
// not done is at it, so they cannot wait in a circle, however few of them fit the device.
//
// The carry is always the same expression, whoever was first, so results never depend on timing: kBundle tiles form a bundle,
// kBundle bundles a stack, and a tile joins
//
//   the last state of the stack before | the bundles before it in its stack | the tiles before it in its bundle
//
// each of which somebody published: every tile its partial, the last tile of a bundle the aggregate of that bundle, and every
// tile, when its walk is done, its last state. Where such a combination cannot be relied on (summary.cuh), the carry is the
// last state of the tile before, and tiles follow one another as in a serial loop.
//
// What is published travels in words that are written and read whole, each with a tag that is not zero, in memory that was zeroed
// before the launch (Mail). So nothing has to be ordered, and one look tells whether it is there and what it is.
#pragma once
#include "walk.cuh"

namespace scanlib {

constexpr int kBundle = SCANLIB_BUNDLE;

// `kValues` values and a tag of 32 bits. In memory lie the first words of all lanes of a tile, then the second ones.
template <int kValues>
struct Mail {
  static constexpr int kContent = kValues * int(sizeof(Value)) / 4;  // 32-bit parts
  static constexpr int kEach = kContent == 1 ? 1 : 3;                // of which a word takes so many, and the tag
  static constexpr int kWords = (kContent + kEach - 1) / kEach;
  using Word = Bytes<4 * (kEach + 1)>;
  union {
    Value value[kValues];
    unsigned part[kWords * kEach];
  };
  unsigned tag;

  static __device__ __forceinline__ Word *place(char *mails, unsigned number) {
    return reinterpret_cast<Word *>(mails) + (long long)number * (kWords * kWidth) + lane();
  }
  __device__ __forceinline__ void send(char *mails, unsigned number) const {
    Word *to = place(mails, number);
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      Word word;
#pragma unroll
      for (int i = 0; i < kEach; ++i) word.word[i] = w * kEach + i < kContent ? part[w * kEach + i] : 0;
      word.word[kEach] = tag;
      post(to + w * kWidth, word);
    }
  }
  // Whether all of it is there.
  __device__ __forceinline__ bool receive(char *mails, unsigned number) {
    const Word *from = place(mails, number);
    Word word[kWords];
#pragma unroll
    for (int w = 0; w < kWords; ++w) word[w] = look(from + w * kWidth);
    bool whole = true;
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) part[w * kEach + i] = word[w].word[i];
      whole = whole && word[w].word[kEach] != 0;
    }
    tag = word[0].word[kEach];
    return whole;
  }
};
using RecordMail = Mail<3>;
using StateMail = Mail<1>;

__device__ __forceinline__ void send_summary(char *records, unsigned number, const Summary<Value> &summary) {
  RecordMail mail;
  mail.value[0] = summary.factor.high;
  mail.value[1] = summary.factor.low;
  mail.value[2] = summary.local;
  mail.tag = packed_bounds(summary);
  mail.send(records, number);
}
__device__ __forceinline__ Summary<Value> opened(const RecordMail &mail) {
  Summary<Value> summary{{mail.value[0], mail.value[1]}, mail.value[2], 0, 0};
  unpack_bounds(mail.tag, summary);
  return summary;
}
__device__ __forceinline__ void send_end(const ScanParams &p, unsigned number, Value state) {
  StateMail mail;
  mail.value[0] = state;
  mail.tag = 1;
  mail.send(p.ends, number);
}
__device__ __forceinline__ Value end_of(const ScanParams &p, unsigned number) {
  StateMail mail;
  while (!mail.receive(p.ends, number)) wait_a_little();
  return mail.value[0];
}

// The ticket of a tile; the plan sees to it that there are fewer than 2^31.
__device__ __forceinline__ unsigned number_of(const ScanParams &p, const Place &place) {
  return unsigned(place.tile) * unsigned(p.groups) + unsigned(place.group);
}

struct LookBackMemory : BlockMemory {
  Place place[3];  // of this tile, the next and the one after it
  unsigned ticket;
  Value from[kWarpLanes], carry[kWarpLanes];
};
static_assert(sizeof(LookBackMemory) <= kMostShared, "a block's shared memory");

// What look-back joins for a tile: the records of `bundles` bundles before number `bundle`, and then of `tiles` tiles before number
// `tile`. So many warps take part as have `each` records for each of their slices.
struct Joint {
  unsigned bundle, bundles, tile, tiles;

  static constexpr unsigned kMost = 2 * kBundle - 2 > kBundle ? 2 * kBundle - 2 : kBundle;
  static constexpr unsigned kEach = (kMost + kSlices - 1) / kSlices;
  // Looked at together: what fits 8 registers.
  static constexpr unsigned kAtOnce = kEach > 1 && RecordMail::kWords == 1 ? 2 : 1;

  __device__ __forceinline__ unsigned count() const { return bundles + tiles; }
  __device__ __forceinline__ unsigned warps() const {
    return (count() + kWarpSlices * kEach - 1) / (kWarpSlices * kEach);
  }
  // Those of the thread's slice.
  __device__ __forceinline__ Summary<Value> own(const ScanParams &p, unsigned group) const {
    Summary<Value> mine = nothing<Value>();
#pragma unroll 1
    for (unsigned begin = 0; begin < kEach; begin += kAtOnce) {
      const unsigned first = slice() * kEach + begin, end = begin + kAtOnce < kEach ? kAtOnce : kEach - begin;
      RecordMail mail[kAtOnce] = {};
      bool whole;
      do {
        whole = true;
#pragma unroll
        for (unsigned i = 0; i < kAtOnce; ++i) {
          const unsigned record = first + i;
          if (i >= end || record >= count()) continue;
          const bool of_bundle = record < bundles;
          const unsigned number = of_bundle ? bundle - bundles + record : tile - count() + record;
          whole = mail[i].receive(of_bundle ? p.aggregates : p.partials, number * unsigned(p.groups) + group) && whole;
        }
        if (!whole) wait_a_little();
      } while (!whole);
#pragma unroll
      for (unsigned i = 0; i < kAtOnce; ++i)
        if (i < end && first + i < count()) mine = joined(mine, opened(mail[i]));
    }
    return mine;
  }
};

// The state before a tile, which has published its partial.
__device__ __forceinline__ Value look_back(const ScanParams &p, const Place &place, LookBackMemory &memory) {
  const unsigned groups = unsigned(p.groups), group = unsigned(place.group), tile = unsigned(place.tile);
  const unsigned bundle = tile / kBundle, tiles = tile % kBundle, bundles = bundle % kBundle;
  // The last tile of a bundle publishes its aggregate first.
#pragma unroll 1
  for (int last = tiles == kBundle - 1; last >= 0; --last) {
    if (!last && thread() - (kThreads - 32) < kWarpLanes) {
      const unsigned stack = anew(bundle) / kBundle;
      memory.from[own_lane()] =
          stack > 0 ? end_of(p, (stack * kBundle * kBundle - 1) * groups + group) : load_state(p, kEnters, place);
    }
    const Joint joint{bundle, last ? 0 : bundles, last ? tile + 1 : tile, last ? tiles + 1 : tiles};
    const bool takes_part = unsigned(warp()) < joint.warps();
    Summary<Value> mine;
    if (takes_part) {
      mine = joint.own(p, group);
      __syncwarp();
      mine = scanned_in_warp(mine);
    }
    __syncthreads();
    if (takes_part && own_slice() == kWarpSlices - 1) memory.scan.of_warp.put(warp(), own_lane(), mine);
    __syncthreads();
    if (thread() >= kWarpLanes) continue;
    Summary<Value> since = nothing<Value>();
#pragma unroll 1
    for (unsigned w = 0; w < joint.warps(); ++w) {
      const Summary<Value> next = memory.scan.of_warp.of(w, own_lane());
      since = w > 0 ? joined(since, next) : next;
    }
    if (last) {
      send_summary(p.aggregates, anew(bundle) * groups + group, since);
      continue;
    }
    Value carry = memory.from[own_lane()];
    if (tile > 0 && !(safe(since) && safe_carry(carry))) {
      carry = end_of(p, (anew(tile) - 1) * groups + group);
    } else if (joint.count() > 0) {
      carry = applied(since, carry);
    }
    memory.carry[own_lane()] = carry;
  }
  __syncthreads();
  return memory.carry[own_lane()];
}

// By the last warp: draws a ticket, which only its first thread has ...
__device__ __forceinline__ unsigned drawn(const ScanParams &p) {
  return thread() == kThreads - 32 ? atomicAdd(p.tickets, 1u) : 0;
}
// ... and finds the place of the tile of that number.
__device__ __forceinline__ void settle(const ScanParams &p, unsigned ticket, Place &place, LookBackMemory &memory) {
  __syncwarp();
  if (thread() == kThreads - 32) memory.ticket = ticket;
  __syncwarp();
  const unsigned tile = memory.ticket / unsigned(p.groups), group = memory.ticket % unsigned(p.groups);
  if (tile < p.tiles) {
    find_place<kSumSteps>(p, place, group, tile, tile);
  } else if (thread() == kThreads - 32) {
    place.tile = tile;  // none
  }
}

__device__ __forceinline__ void walk_tiles(const ScanParams &p) {
  SCANLIB_SHARED(LookBackMemory, memory);
  WarpMemory &own = memory.of_warp[warp()];
  const unsigned end_of_tiles = unsigned(p.tiles);
  // A turn finishes a tile, begins to load the next one, and draws the one after that. The first two only lead up to it.
  int ahead = 2;
  Place *here = memory.place, *after = here + 1, *drawn_one = after + 1;
#pragma unroll 1
  for (;;) {
    const Place &place = *here, &next = *after;
    Place &later = *drawn_one;
    drawn_one = here;
    here = after;
    after = &later;
    if (ahead == 0 && unsigned(place.tile) >= end_of_tiles) return;
    const unsigned ticket = drawn(p);
    Run run;
    if (ahead == 0) {
      wait_for_copies();
      __syncwarp();
      read_tile(p, place, own, run);
      __syncwarp();
    }
    if (ahead < 2 && unsigned(next.tile) < end_of_tiles) start_tile(p, next, own);
    Summary<Value> prefix;
    bool doubt = false;
    if (ahead == 0) {
      prefix = scanned(summarized<Value, kRun>(run), &memory.scan, [&](const Summary<Value> &whole) {
        doubt = !safe(whole);
        if (own_slice() == 0) send_summary(p.partials, number_of(p, place), whole);
      });
      doubt = doubt || !safe(prefix);
    }
    if (warp() == kWarps - 1) settle(p, ticket, later, memory);
    if (ahead > 0) {
      --ahead;
      __syncthreads();
      continue;
    }
    run.forget();
    const Value carry = look_back(p, place, memory);
    const Value before = carried_in(prefix, doubt, carry, run, &memory.scan, [] {});
    Sum sum{};
    const Value end = finish_tile(p, place, run, before, sum, own);
    if (!place.last && slice() == kSlices - 1) send_end(p, number_of(p, place), end);
    if constexpr (kSumSteps) store_sum(p, place, sum, memory);
  }
}

}  // namespace scanlib
