// How a problem is cut for a GPU into tiles, groups and loops, and what memory they need: the first half of a plan
// (cuda_plan.h).
#pragma once
#include <cstdint>
#include <vector>

#include "../cuda/params.h"
#include "cuda_plan.h"
#include "problem.h"

namespace scanlib {

enum Kernel { kWalk = 0, kLookBack = 1, kAddUp = 2 };
enum Layout { kColumns = 0, kRows = 1 };
enum : int { kSumSteps = 1, kSumLanes = 2 };  // of grad_a, inside a tile

constexpr int kWarp = 32;
constexpr int kMostRun = 32, kMostBundle = kWarp;
constexpr int kMostCarriers = 32;                         // warps: next to none of a device
constexpr int kMostThreads = 1024, kMostResident = 2048;  // of a block, of a multiprocessor
constexpr int kReduceThreads = 256, kReduceTerms = 8;
constexpr int64_t kMostBlocks = (int64_t(1) << 31) - 1;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t power_of_two(int64_t n) {  // at least n
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

// Whether the numbers are in bounds; whether a block so large has room in shared memory, its compiler says.
bool usable(const CudaTuning &tuning);

// How a problem is cut into tiles.
struct Cut {
  CudaTuning tuning;
  bool gated, packed, backward, against;  // packed: by OFFSETS; against: steps are walked against the axis
  int32_t value;                          // the dtype computed in
  Kernel kernel;
  Layout layout;
  bool down;  // rows whose later steps, as they are walked, lie at lower addresses
  int sum;
  int threads, width, run;
  int bundle;         // of look-back: tiles, and bundles, that are joined at a time; 0 where there are carriers
  int carrier_tiles;  // that a carrier's thread has at a time; 0 where there are none
  int team;           // carriers that take turns
  int64_t chunks, groups, tiles;

  // Whether blocks draw tiles of a group one after the other, and tell one another what they made of them.
  bool by_tickets() const { return kernel == kLookBack; }
  int slices() const { return threads / width; }
  int64_t numbers() const { return tiles * groups; }
  // Of one tile, as Mail in cuda/mail.cuh lays them out: a factor of two parts at most, a state, and a tag.
  int64_t record_bytes() const { return width * 4 * dtype_size(value); }
  // Blocks of carriers.
  int64_t carriers() const { return carrier_tiles ? ceil_div(groups * width * team, threads / kWarp) : 0; }
  int64_t end_bytes() const { return width * (value == SCANLIB_F32 ? 8 : value == SCANLIB_C128 ? 32 : 16); }
};

// The partial sums of grad_a: where they lie in scratch memory and how the second launch adds them up.
struct Parts {
  bool needed, down;  // down: in memory's order, against that in which steps are walked
  int32_t dtype;
  int64_t bytes;
  int64_t outer[kOuterAxes], time, lane;  // strides in bytes
  ReduceParams reduce;                    // without its pointers
};

// The pieces of scratch memory, as offsets.
struct Room {
  int64_t tickets, carrier_tickets, counts, stack_counts, partials, bundles, stacks, ends, zeroed, parts, bytes;
};

// A problem cut, and what memory that takes; none where nothing is launched.
struct Work {
  std::vector<CudaLoop> loops;
  scanlib_problem problem;  // inside of them
  Cut cut;
  Parts parts;
  Room room;
  bool walks, sums;

  explicit Work(const scanlib_problem &p);
  bool too_large() const;
  int64_t scratch_bytes() const { return walks || sums ? room.bytes : 0; }
};

}  // namespace scanlib
