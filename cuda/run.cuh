// From a source to a sink: what both ways of carrying share.
//
// Forward, step k:   h_k = a_k h_{k-1} + x_k, from the initial state; the last is the final state.
// Backward walks the other way. Step k has grad_x_k = a_{k-1} grad_x_{k-1} + grad_h_k, from grad_final, where the coefficient
// before the first step is one. What is left is grad_h0 = a_last grad_x_last. So a is read one step ahead, and nothing is shifted in
// memory.
//
// Where a and x come from is the business of a source, what is made of the states that of a sink: operands.cuh and gates.cuh have
// one of each:
//
//   WarpInputs            what a warp has of a tile in shared memory, on the way to registers
//   start_tile<..>()      starts its copies
//   Run, read_tile()      a thread's steps: a(i), x(i), its Starts (segments.cuh), and n, how many there are. Where there is no
//                         step is one that changes nothing. forget(): what it holds need not be kept as it is widened
//   WarpResults, kPiece   results in shared memory, on the way out; so many steps of each run at a time
//   Sink<kWhole>          expect_last() where it will have the last step of all; for each piece begin(piece, run, from, n), of n steps
//                         that the run has, take(piece, run, i, k, before, state) for each step k, the piece's i-th, and put(piece, run,
//                         from, n, state); close(sum); leaving(run, end, state): what is left of the state before step `end` of the
//                         tile, at which a segment ends, or all do
#pragma once
#include "move.cuh"
#include "scan.cuh"
#include "segments.cuh"

namespace scanlib {

// What is summed of grad_a inside a tile, where `a` was broadcast.
constexpr bool kSumSteps = SCANLIB_SUM & 1, kSumLanes = SCANLIB_SUM & 2;

using Value = ElementOf<SCANLIB_VALUE>::type;  // what is computed in
using Op = SCANLIB_OPERATOR<Scalars<Value>>;
using Coefficient = Op::Coefficient;
using State = Op::State;
using Sum = SumOf<Value>::type;
static_assert(!kBackward || Op::kDifferentiable, "an operator with a gradient");
using ElementA = ElementOf<SCANLIB_A>::type;

template <int kBytes>
struct Buffer {
  alignas(16) char of[kBytes];
};
template <>
struct Buffer<0> {
  static constexpr char *of = nullptr;
};
// ---------------------------------------------------------------------------------------------------------------- states

// Where there are segments each has a state of its own, and none is that of all.
constexpr long long kOfAll = kPacked ? -1 : 0;
__device__ __forceinline__ bool is_segment(const ScanParams &p, long long number) {
  return number >= 0 && number < p.segments.count;
}
__device__ __forceinline__ State load_state(const ScanParams &p, int role, const Place &place, long long number,
                                            int lane_) {
  const Operand &operand = p.operand[role];
  if (operand.dtype == 0 || lane_ >= place.lanes) return Op::nothing();
  if (kPacked && !is_segment(p, number)) return Op::nothing();
  const char *of_all = global(place.first[role]) + lane_ * operand.lane;
  return load_value<State>(operand.dtype, kPacked ? of_all + number * operand.step : of_all);
}
__device__ __forceinline__ State load_state(const ScanParams &p, int role, const Place &place,
                                            long long number = kOfAll) {
  return load_state(p, role, place, number, lane());
}
__device__ __forceinline__ void store_state(const ScanParams &p, int role, const Place &place, State value,
                                            long long number = kOfAll) {
  const Operand &operand = p.operand[role];
  if (operand.dtype == 0 || lane() >= place.lanes) return;
  if (kPacked && !is_segment(p, number)) return;
  char *of_all = global(place.first[role]) + lane() * operand.lane;
  store_value(operand.dtype, kPacked ? of_all + number * operand.step : of_all, value);
}

constexpr int kEnters = kBackward ? kGradFinal : kH0, kLeaves = kBackward ? kGradH0 : kFinal;

// What enters the segments from number `from` up to `to`, which have no steps, leaves them.
__device__ __forceinline__ void pass_through(const ScanParams &p, const Place &place, long long from, long long to) {
  if constexpr (kPacked) {
#pragma unroll 1
    for (long long number = from; number < to; ++number)
      store_state(p, kLeaves, place, load_state(p, kEnters, place, number), number);
  }
}

}  // namespace scanlib

#if SCANLIB_SOURCE == 1
#include "gates.cuh"
#else
#include "operands.cuh"
#endif

namespace scanlib {

struct BlockMemory {
  WarpResults results[kWarps];
  ScanMemory<Op> scan;
};

__device__ __forceinline__ void start_tile(const ScanParams &p, const Place &place, WarpInputs &memory) {
  if (kAllWords && place.words == 2)
    start_tile<kAllWords, kAllWords>(p, place, memory);
  else if (kAllWords && place.words == 1)
    start_tile<kAllWords, false>(p, place, memory);
  else
    start_tile<false, false>(p, place, memory);
}

// What leaves the segments whose last step a run has, which is walked up to there from the true state before it, and those without steps
// that come next.
template <class AnySink>
__device__ __forceinline__ void leave_segments(const ScanParams &p, const Place &place, const Run &run, State before,
                                               const AnySink &sink) {
  each_start(p, place, run, [&](int i, long long ended, long long begun) {
    const int end = slice() * kRun + i;
    if (i > run.n || (i == 0 && (end > 0 || place.tile > 0))) return;
    if (i > 0) {
      State state = before;
#pragma unroll
      for (int k = 0; k < kRun; ++k)
        if (k < i) state = after<Op>(run, k, run.n, state);
      store_state(p, kLeaves, place, sink.leaving(run, end, state), ended);
    }
    pass_through(p, place, ended + 1, begun);
  });
}

// Walks a thread's run from the true state before it, stores the results, and returns the state after it. Sums of grad_a over
// the run are added to `sum`. kWhole: a tile of Place::words.
template <bool kWhole>
__device__ __forceinline__ State finish_tile(const ScanParams &p, const Place &place, const Run &run, State state,
                                             Sum &sum, WarpResults &memory) {
  const Mover mover;
  const Owner owner;
  Sink<kWhole> sink(p, place, mover, owner, memory);
  const int n = kWhole ? kRun : run.n;
  // Backward's last tile is not whole.
  const bool owns_last = !(kWhole && kBackward) && place.last && n > 0 && slice() * kRun + n == place.steps;
  if (owns_last) sink.expect_last();
  if (kPacked && p.operand[kLeaves].dtype != 0) leave_segments(p, place, run, state, sink);
#pragma unroll
  for (int from = 0; from < kRun; from += kPiece) {
    typename Sink<kWhole>::Piece piece;
    sink.begin(piece, run, from, n);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      const State before = state;
      state = after<Op>(run, from + i, n, state);
      sink.take(piece, run, i, from + i, before, state);
    }
    sink.put(piece, run, from, n, state);
  }
  sink.close(sum);
  if (owns_last && !kPacked) store_state(p, kLeaves, place, sink.leaving(run, place.steps, state));
  return state;
}
__device__ __forceinline__ State finish_tile(const ScanParams &p, const Place &place, const Run &run, State state,
                                             Sum &sum, WarpResults &memory) {
  return kAllWords && place.words ? finish_tile<kAllWords>(p, place, run, state, sum, memory)
                                  : finish_tile<false>(p, place, run, state, sum, memory);
}

// The sum of grad_a over the steps that the block has walked of a group since, and perhaps over its lanes.
__device__ __forceinline__ void store_sum(const ScanParams &p, const Place &place, Sum sum, BlockMemory &memory) {
  sum = summed_slices(sum, memory.scan.sums);
  const Operand &grad_a = p.operand[kGradA];
  char *at = global(place.first[kGradA]);
  if constexpr (!kSumLanes) {
    if (slice() == 0 && lane() < place.lanes) store_element(at + lane() * grad_a.lane, sum);
  } else {
    if (lane() >= place.lanes) sum = Sum{};
#pragma unroll
    for (int bits = 1; bits < kWarpLanes; bits *= 2) add(sum, shuffle_xor(sum, bits));
    if constexpr (kAbreast > 1) {
      __syncthreads();
      if (thread() % 32 == 0) memory.scan.sums[warp()][0] = sum;
      __syncthreads();
      for (int w = 1; w < kAbreast && thread() == 0; ++w) add(sum, memory.scan.sums[w][0]);
    }
    if (thread() == 0) store_element(at, sum);
  }
}

}  // namespace scanlib
