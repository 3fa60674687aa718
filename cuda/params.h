// What a kernel is told: filled on the host by native/cuda_plan.cpp, passed by value.
#pragma once

namespace scanlib {

constexpr int kOuterAxes = 6;

// As scanlib_role in native/scanlib.h.
enum Role { kA, kX, kH, kH0, kFinal, kGradH, kGradFinal, kGradA, kGradX, kGradH0, kY, kReset, kOffsets, kRoles };

// Step k of lane j in chunk c of outer index (i...) lies at first + i * outer... + c * chunk + j * lane + k * step. Steps count
// in the order in which they are walked, so strides may be negative. All in bytes. Null where absent. Where there are segments, what
// has an element for each of them, or for each offset, has these in the place of steps.
struct Operand {
  char *first;
  long long outer[kOuterAxes], chunk, lane, step;
  int dtype;
  int wide;  // whether it may be moved in 16-byte words (move.cuh)
};

// Of a gated recurrence, where A lies at the columns of the decay: how many bytes from there the others are, and -1 where f is the
// complement of what its column says, else 1.
struct GateParams {
  long long input, output, candidate;
  int sign;
};

// How many segments OFFSETS tells of, and whether the last of them is the first that is walked.
struct SegmentParams {
  long long count;
  int against;
};

// A group is `width` lanes, neighbours along the inner axis, at one outer index; chunks are the groups along it.
struct ScanParams {
  Operand operand[kRoles];
  long long extent[kOuterAxes];
  int rank, conjugate;
  long long steps, lanes, chunks, groups, tiles;  // lanes: of the whole inner axis; tiles: of one group
  // Look-back only (lookback.cuh). With carriers `ends` has the states before tiles.
  char *partials, *bundles, *stacks, *ends;
  unsigned *tickets, *carrier_tickets, *counts,
      *stack_counts;   // partials that are there of a bundle, bundles of a stack
  int carriers, team;  // blocks of carriers, if there are any; how many take turns
  GateParams gates;
  SegmentParams segments;
};

// Adds up `terms` partial sums for each of `outputs` elements. Axes from far to near.
struct ReduceParams {
  struct Axis {
    long long extent, from, to;  // strides in bytes
  };
  char *from, *to;
  Axis kept[kOuterAxes + 2], summed[kOuterAxes + 2];
  int kept_rank, summed_rank;
  long long outputs, terms;
};

struct Params {
  ScanParams scan;
  ReduceParams reduce;
};

}  // namespace scanlib
