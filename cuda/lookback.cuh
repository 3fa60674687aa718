// Few and long sequences: time is cut into tiles that any block may work on, in one pass over memory (decoupled look-back,
// Merrill and Garland 2016).
//
// A block draws a ticket, loads the tile of that number, and publishes what the tile does to any carry, its partial. It finds
// its own carry in what earlier tiles have published, while its elements stay in registers. Blocks wait only for lower tickets,
// and whoever holds one is running, so they cannot wait in a circle, however few of them fit the device.
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
// Memory order: records are written first, the status word with release after a barrier of their writers; readers acquire
// the status word before they read the records.
#pragma once
#include "walk.cuh"

namespace scanlib {

constexpr int kBundle = SCANLIB_BUNDLE;

// Words of a tile's status, each implies those before it. The memory is zeroed before the launch.
constexpr unsigned kPartial = 1, kAggregate = 2, kEnd = 3;

using Real = RealOf<Value>::type;
constexpr int kRecordBytes = kWidth * int(3 * sizeof(Value) + 2 * sizeof(Real));

// One field after the other, each with all lanes.
struct Record {
  Value *product, *lost, *local;
  Real *most_product, *most_local;

  __device__ __forceinline__ Record(char *records, long long number) {
    product = reinterpret_cast<Value *>(records + number * kRecordBytes) + lane();
    lost = product + kWidth;
    local = lost + kWidth;
    most_product = reinterpret_cast<Real *>(local - lane() + kWidth) + lane();
    most_local = most_product + kWidth;
  }
  __device__ __forceinline__ void write(const Summary<Value> &s) const {
    *product = s.factor.high;
    *lost = s.factor.low;
    *local = s.local;
    *most_product = s.most_product;
    *most_local = s.most_local;
  }
  __device__ __forceinline__ Summary<Value> read() const {
    return {{load_record(product), load_record(lost)},
            load_record(local),
            load_record(most_product),
            load_record(most_local)};
  }
};

// By the first warp, which has all lanes in its first threads.
__device__ __forceinline__ void publish_summary(char *records, long long number, const Summary<Value> &summary,
                                                unsigned *status, unsigned what) {
  if (warp() > 0) return;
  if (slice() == 0) Record(records, number).write(summary);
  __syncwarp();
  if (thread() == 0) publish(status, what);
}
// By the last warp, whose last threads have walked the last slice.
__device__ __forceinline__ void publish_end(const ScanParams &p, long long number, Value state) {
  if (warp() < kWarps - 1) return;
  if (slice() == kSlices - 1) reinterpret_cast<Value *>(p.ends)[number * kWidth + lane()] = state;
  __syncwarp();
  if (thread() == kThreads - 1) publish(p.status + number, kEnd);
}

__device__ __forceinline__ void await(const unsigned *status, unsigned what) {
  while (published(status) < what) wait_a_little();
}
__device__ __forceinline__ Value end_of(const ScanParams &p, long long number) {
  await(p.status + number, kEnd);
  return load_record(reinterpret_cast<const Value *>(p.ends) + number * kWidth + lane());
}

// Joins `count` < kBundle records, `record`, `record` + p.groups, ...; their status words are `status`, `status` + `stride`, ...
__device__ __forceinline__ Summary<Value> folded(const ScanParams &p, char *records, long long record, long long status,
                                                 long long stride, int count, unsigned what, BlockMemory &memory) {
  constexpr int kEach = (kBundle + kSlices - 1) / kSlices;
  Summary<Value> mine = nothing<Value>();
  for (int i = slice() * kEach; i < (slice() + 1) * kEach && i < count; ++i) {
    await(p.status + status + i * stride, what);
    mine = joined(mine, Record(records, record + i * p.groups).read());
  }
  return scanned(mine, &memory.scan).all;
}

// The state before a tile, which has published its partial.
__device__ __forceinline__ Value look_back(const ScanParams &p, const Group &group, long long number, long long tile,
                                           BlockMemory &memory) {
  const long long bundle = tile / kBundle, stack = bundle / kBundle, own = number - tile * p.groups;
  const int tiles = int(tile % kBundle), bundles = int(bundle % kBundle);
  Summary<Value> since = nothing<Value>();
  if (tiles > 0) {
    const long long first = number - tiles * p.groups;
    since = folded(p, p.partials, first, first, p.groups, tiles, kPartial, memory);
  }
  if (tiles == kBundle - 1 && warp() == 0) {
    // Read back by the threads that wrote it, rather than kept in registers by all.
    Summary<Value> aggregate = nothing<Value>();
    if (slice() == 0) aggregate = joined(since, Record(p.partials, number).read());
    publish_summary(p.aggregates, bundle * p.groups + own, aggregate, p.status + number, kAggregate);
  }
  if (bundles > 0) {
    const long long first = (bundle - bundles) * p.groups + own;
    const long long last_tile = ((bundle - bundles) * kBundle + kBundle - 1) * p.groups + own;
    const Summary<Value> before =
        folded(p, p.aggregates, first, last_tile, kBundle * p.groups, bundles, kAggregate, memory);
    since = tiles > 0 ? joined(before, since) : before;
  }
  const Value from =
      stack > 0 ? end_of(p, (stack * kBundle * kBundle - 1) * p.groups + own) : load_state(p, kEnters, group);
  if (tile > 0 && !(safe(since) && safe_carry(from))) return end_of(p, number - p.groups);
  return tiles + bundles > 0 ? applied(since, from) : from;
}

__device__ __forceinline__ void walk_tiles(const ScanParams &p) {
  SCANLIB_SHARED(BlockMemory, memory);
  for (;;) {
    if (thread() == 0) {
      long long tile = memory.ticket = (long long)atomicAdd(p.tickets, 1ull);
      memory.group = group_at(p, divided(tile, p.groups));
      memory.tile = tile;
    }
    __syncthreads();
    const Group &group = memory.group;
    const long long number = memory.ticket, tile = memory.tile;
    if (tile >= p.tiles) return;
    Fetched fetched;
    Run run;
    fetch_tile(p, group, tile, fetched);
    arrange_tile(p, tile, fetched, run, memory);
    const Prefix<Value> prefix = scanned(summarized(run.a, run.x), &memory.scan);
    publish_summary(p.partials, number, prefix.all, p.status + number, kPartial);
    const Value carry = look_back(p, group, number, tile, memory);
    const Value before = carried_in(prefix, carry, run.a, run.x, run.n, &memory.scan).before;
    Sum sum{};
    const Value end = finish_tile(p, group, tile, run, before, sum, memory);
    if (tile + 1 < p.tiles) publish_end(p, number, end);
    if constexpr (kSumSteps) store_sum(p, group, tile, sum, memory);
    __syncthreads();
  }
}

}  // namespace scanlib
