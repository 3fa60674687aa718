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

  static __device__ __forceinline__ Word *place(char *mails, int number) {
    return reinterpret_cast<Word *>(mails) + (long long)number * (kWords * kWidth) + lane();
  }
  __device__ __forceinline__ void send(char *mails, int number) const {
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
  __device__ __forceinline__ bool receive(char *mails, int number) {
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

__device__ __forceinline__ void send_summary(char *records, int number, const Summary<Value> &summary) {
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
__device__ __forceinline__ void send_end(const ScanParams &p, int number, Value state) {
  StateMail mail;
  mail.value[0] = state;
  mail.tag = 1;
  mail.send(p.ends, number);
}
__device__ __forceinline__ Value end_of(const ScanParams &p, int number) {
  StateMail mail;
  while (!mail.receive(p.ends, number)) wait_a_little();
  return mail.value[0];
}

// The ticket of a tile; the plan sees to it that there are fewer than 2^31.
__device__ __forceinline__ int number_of(const ScanParams &p, const Place &place) {
  return int(place.tile) * int(p.groups) + int(place.group);
}

struct LookBackMemory : BlockMemory {
  Place place[3];  // of this tile, the next and the one after it
  unsigned ticket;
  Value from[kWarpLanes], carry[kWarpLanes];
};

// Joins the records of `bundles` bundles before number `bundle` and of `tiles` tiles before number `tile`, in this order: for each
// lane, in the first warp. Every thread of the block takes part; starts with a barrier.
__device__ __forceinline__ Summary<Value> folded(const ScanParams &p, int group, int bundle, int bundles, int tile,
                                                 int tiles, LookBackMemory &memory) {
  constexpr int kMost = 2 * kBundle - 2 > kBundle ? 2 * kBundle - 2 : kBundle;
  constexpr int kEach = (kMost + kSlices - 1) / kSlices;
  // Looked at together: what fits 8 registers.
  constexpr int kAtOnce = kEach > 1 && RecordMail::kWords == 1 ? 2 : 1;
  const int count = bundles + tiles, warps = (count + kWarpSlices * kEach - 1) / (kWarpSlices * kEach);
  Summary<Value> mine = nothing<Value>();
  if (warp() < warps) {
#pragma unroll 1
    for (int begin = 0; begin < kEach; begin += kAtOnce) {
      const int first = slice() * kEach + begin, end = begin + kAtOnce < kEach ? kAtOnce : kEach - begin;
      RecordMail mail[kAtOnce];
      bool whole;
      do {
        whole = true;
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int record = first + i;
          if (i >= end || record >= count) continue;
          const int number = record < bundles ? bundle - bundles + record : tile - count + record;
          whole =
              mail[i].receive(record < bundles ? p.aggregates : p.partials, number * int(p.groups) + group) && whole;
        }
        if (!whole) wait_a_little();
      } while (!whole);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        if (i < end && first + i < count) mine = joined(mine, opened(mail[i]));
    }
    __syncwarp();
    mine = scanned_in_warp(mine);
  }
  __syncthreads();
  if (warp() < warps && own_slice() == kWarpSlices - 1) memory.scan.of_warp[warp()][own_lane()] = mine;
  __syncthreads();
  if (warp() > 0 || warps == 0) return nothing<Value>();
  Summary<Value> all = memory.scan.of_warp[0][own_lane()];
#pragma unroll 1
  for (int w = 1; w < warps; ++w) all = joined(all, memory.scan.of_warp[w][own_lane()]);
  return all;
}

// The state before a tile, which has published its partial.
__device__ __forceinline__ Value look_back(const ScanParams &p, const Place &place, LookBackMemory &memory) {
  const int groups = int(p.groups), group = int(place.group), tile = int(place.tile);
  const int bundle = tile / kBundle, stack = bundle / kBundle, tiles = tile % kBundle, bundles = bundle % kBundle;
  // The last tile of a bundle publishes its aggregate first.
#pragma unroll 1
  for (int last = tiles == kBundle - 1; last >= 0; --last) {
    if (!last && warp() == kWarps - 1 && own_slice() == 0)
      memory.from[own_lane()] =
          stack > 0 ? end_of(p, (stack * kBundle * kBundle - 1) * groups + group) : load_state(p, kEnters, place);
    const Summary<Value> since =
        folded(p, group, bundle, last ? 0 : bundles, last ? tile + 1 : tile, last ? tiles + 1 : tiles, memory);
    if (warp() > 0 || own_slice() > 0) continue;
    if (last) {
      send_summary(p.aggregates, bundle * groups + group, since);
      continue;
    }
    Value carry = memory.from[own_lane()];
    if (tile > 0 && !(safe(since) && safe_carry(carry))) {
      carry = end_of(p, (tile - 1) * groups + group);
    } else if (tiles + bundles > 0) {
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
  // A turn finishes a tile, begins to load the next one, and draws the one after that. The first two only lead up to it.
  int ahead = 2;
#pragma unroll 1
  for (int turn = 1;; turn = turn < 2 ? turn + 1 : 0) {
    const Place &place = memory.place[turn], &next = memory.place[turn < 2 ? turn + 1 : 0];
    Place &later = memory.place[turn > 0 ? turn - 1 : 2];
    if (ahead == 0 && place.tile >= p.tiles) return;
    const unsigned ticket = drawn(p);
    Run run;
    if (ahead == 0) {
      wait_for_copies();
      __syncwarp();
      read_tile(p, place, place.tile, own, run);
      __syncwarp();
    }
    if (ahead < 2 && next.tile < p.tiles) start_tile(p, next, next.tile, 0, own);
    Summary<Value> prefix;
    bool doubt = false;
    if (ahead == 0) {
      const Prefix<Value> both = scanned(summarized(run.a, run.x), &memory.scan);
      prefix = both.before;
      doubt = doubtful(both);
      if (warp() == kWarps - 1 && own_slice() == 0) send_summary(p.partials, number_of(p, place), both.all);
    }
    if (warp() == kWarps - 1) settle(p, ticket, later, memory);
    if (ahead > 0) {
      --ahead;
      __syncthreads();
      continue;
    }
    const Value carry = look_back(p, place, memory);
    const Value before = carried_in(prefix, doubt, carry, run.a, run.x, run.n, &memory.scan, [] {});
    Sum sum{};
    const Value end = finish_tile(p, place, place.tile, run, before, sum, own);
    if (place.tile + 1 < p.tiles && slice() == kSlices - 1) send_end(p, number_of(p, place), end);
    if constexpr (kSumSteps) store_sum(p, place, sum, memory);
  }
}

}  // namespace scanlib
