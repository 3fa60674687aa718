// From operands to results: what both ways of carrying share.
//
// Forward, step k:   h_k = a_k h_{k-1} + x_k, from h0; the last is the final state.
// Backward walks the other way. Step k has grad_x_k = a_{k-1} grad_x_{k-1} + grad_h_k, from grad_final, where the coefficient
// before the first step is one, and grad_a_k = grad_x_k h_{k+1}, where after the last stands h0; a and h conjugated where the
// caller's convention is. What is left is grad_h0 = a_last grad_x_last. So a is read one step ahead and h one step behind, and
// nothing is shifted in memory.
#pragma once
#include "move.cuh"
#include "scan.cuh"

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
using ElementX = ElementOf<SCANLIB_X>::type;  // x, or grad_h
using ElementH = ElementOf<SCANLIB_H>::type;
using ElementGradA = ElementOf<SCANLIB_GRAD_A>::type;
// The result that comes first: h, or grad_x.
using First = ElementOf<kBackward ? SCANLIB_GRAD_X : SCANLIB_H>::type;
constexpr bool kComplex = IsComplex<Value>::value;
constexpr bool kStoresGradA = kBackward && !kSumSteps && !kSumLanes;

// Steps of each run that are stored at a time: 16-byte words of the largest result fill a warp.
constexpr int kLargest =
    int(kStoresGradA && sizeof(ElementGradA) > sizeof(First) ? sizeof(ElementGradA) : sizeof(First));
constexpr int kPiece = kRows || kRun < 16 / kLargest ? kRun : 16 / kLargest;

template <class E>
using Fetched = Part<E, kRun>;
template <class E>
using Result = Part<E, kPiece>;

constexpr bool kAllWords = Fetched<ElementA>::kWords && Fetched<ElementX>::kWords && Result<First>::kWords &&
                           (!kBackward || Fetched<ElementH>::kWords) && (!kStoresGradA || Result<ElementGradA>::kWords);

// What a warp has in shared memory: its part of a tile on the way to registers, and of results on the way out. In backward x is
// grad_h.
template <int kBytes>
struct Buffer {
  alignas(16) char of[kBytes];
};
template <>
struct Buffer<0> {
  static constexpr char *of = nullptr;
};
struct alignas(16) WarpInputs {
  Buffer<Fetched<ElementA>::kBytes> a;
  Buffer<Fetched<ElementX>::kBytes> x;
  Buffer<kBackward ? Fetched<ElementH>::kBytes : 0> h;
  Buffer<kEdges ? 16 * kWarpLanes : 0> a_before, h_behind;  // of each lane
};
struct alignas(16) WarpResults {
  Buffer<Result<First>::kBytes> first;
  Buffer<kStoresGradA ? Result<ElementGradA>::kBytes : 0> second;
};

struct BlockMemory {
  WarpResults results[kWarps];
  ScanMemory<Op> scan;
};

// ---------------------------------------------------------------------------------------------------------------- states

__device__ __forceinline__ State load_state(const ScanParams &p, int role, const Place &place) {
  const Operand &operand = p.operand[role];
  if (operand.dtype == 0 || lane() >= place.lanes) return Op::nothing();
  return load_value<State>(operand.dtype, global(place.first[role]) + lane() * operand.lane);
}
__device__ __forceinline__ void store_state(const ScanParams &p, int role, const Place &place, State value) {
  const Operand &operand = p.operand[role];
  if (operand.dtype == 0 || lane() >= place.lanes) return;
  store_value(operand.dtype, global(place.first[role]) + lane() * operand.lane, value);
}

constexpr int kEnters = kBackward ? kGradFinal : kH0, kLeaves = kBackward ? kGradH0 : kFinal;

// ----------------------------------------------------------------------------------------------------------------- tiles

// `one` or `other`, both of which are in registers.
__device__ __forceinline__ float chosen(bool yes, float one, float other) { return yes ? one : other; }
__device__ __forceinline__ double chosen(bool yes, double one, double other) { return yes ? one : other; }
template <class R>
__device__ __forceinline__ Complex<R> chosen(bool yes, Complex<R> one, Complex<R> other) {
  return {chosen(yes, one.re, other.re), chosen(yes, one.im, other.im)};
}
template <class T>
__device__ __forceinline__ T conjugated_if(bool yes, T value) {
  return yes ? conjugated(value) : value;
}

// A thread's run: its steps, and what each does to a state. In backward x is grad_h, a the decay one step before, and h the state one
// step before in time. Where there is no step is one that changes nothing.
struct Run {
  // In backward conjugated where that is wanted.
  Elements<ElementA, kRun> element_a;
  Elements<ElementX, kRun> element_x;
  Elements<ElementH, kRun> element_h;
  Coefficient a_before;  // beside it (kEdges)
  State h_behind;
  int n;  // steps that exist

  __device__ __forceinline__ Coefficient a(int i) const {
    const Coefficient value = kEdges && i == 0 ? a_before : widened<Coefficient>(element_a[kEdges ? i - 1 : i]);
    if constexpr (kBackward) return Op::adjoint(value, false);
    return value;
  }
  __device__ __forceinline__ State x(int i) const { return widened<State>(element_x[i]); }
  __device__ __forceinline__ State h(int i) const {
    if (kEdges && i == kRun - 1) return h_behind;
    return widened<State>(element_h[kEdges ? i + 1 : i]);
  }
  // The state after step i, of `count` that exist.
  __device__ __forceinline__ State after(int i, int count, State state) const {
    if (!Op::kIdleKeeps && i >= count) return state;
    return Op::step(a(i), state, x(i));
  }
  __device__ __forceinline__ void forget() {
    element_a.forget();
    element_x.forget();
    if (kBackward) element_h.forget();
  }
  // Leaves step i without effect.
  __device__ __forceinline__ void skip(int i) {
    if (!kEdges || i > 0)
      element_a.set(kEdges ? i - 1 : i, narrowed<ElementA>(Op::idle()));
    else
      a_before = Op::idle();
    element_x.set(i, narrowed<ElementX>(Op::idle_input()));
  }
};

template <class E>
__device__ __forceinline__ void conjugate(Elements<E, kRun> &elements) {
#pragma unroll
  for (int i = 0; i < kRun; ++i) elements.set(i, conjugated(elements[i]));
}

// In rows: the element next to the thread's lane of the warp's part, at the far end of a 16-byte word of which it is an end itself, so
// that it can be copied like the others.
template <class E, bool kBefore>
__device__ __forceinline__ char *edge_of(char *edges, int lane_) {
  return edges + 16 * lane_ + (kBefore == kDown ? 0 : 16 - int(sizeof(E)));
}
// `step`: its step in the tile.
template <class E, bool kBefore, bool kWhole>
__device__ __forceinline__ void start_edge(const ScanParams &p, const Place &place, int role, int step,
                                           const Mover &mover, char *edges) {
  const Operand &operand = p.operand[role];
  const char *at = global(place.first[role]) + step * operand.step + (mover.lane + int(mover.thread)) * operand.lane;
  // Inside of a tile that moves in words, or beside it, there are as many elements as fill one.
  if constexpr (kWhole) {
    start_copy<16>(edges + 16 * mover.thread, kBefore == kDown ? at : at - 16 + sizeof(E));
  } else {
    start_copy<sizeof(E)>(edge_of<E, kBefore>(edges, mover.thread), at);
  }
}

// Starts copies of the warp's part of a tile. kWhole: of Place::words; kWholeA: with `a`.
template <bool kWhole, bool kWholeA>
__device__ __forceinline__ void start_tile(const ScanParams &p, const Place &place, WarpInputs &memory) {
  const Mover mover;
  start_part<ElementA, kWholeA>(p, place, kA, mover, memory.a.of);
  start_part<ElementX, kWhole>(p, place, kBackward ? kGradH : kX, mover, memory.x.of);
  if constexpr (kBackward) start_part<ElementH, kWhole>(p, place, kH, mover, memory.h.of);
  if constexpr (kEdges) {
    const int before = mover.step - 1, behind = mover.step + kWarpSteps;
    if (mover.thread < kWarpLanes && (kWhole || mover.lane + int(mover.thread) < place.lanes)) {
      if (kWhole || ((before >= 0 || place.tile > 0) && before < place.steps))
        start_edge<ElementA, true, kWholeA>(p, place, kA, before, mover, memory.a_before.of);
      if (kWhole || behind < place.steps || !place.last)
        start_edge<ElementH, false, kWhole>(p, place, kH, behind, mover, memory.h_behind.of);
    }
  }
}
__device__ __forceinline__ void start_tile(const ScanParams &p, const Place &place, WarpInputs &memory) {
  if (kAllWords && place.words == 2)
    start_tile<kAllWords, kAllWords>(p, place, memory);
  else if (kAllWords && place.words == 1)
    start_tile<kAllWords, false>(p, place, memory);
  else
    start_tile<false, false>(p, place, memory);
}

// The thread's run of a tile whose copies have arrived.
__device__ __forceinline__ void read_tile(const ScanParams &p, const Place &place, WarpInputs &memory, Run &run) {
  const int left = lane() < place.lanes ? place.steps - slice() * kRun : 0;
  run.n = left < 0 ? 0 : left < kRun ? left : kRun;
  const Owner owner;
  Fetched<ElementX>::read(run.element_x, memory.x.of, owner);
  Fetched<ElementA>::read(run.element_a, memory.a.of, owner);
  if constexpr (kBackward) Fetched<ElementH>::read(run.element_h, memory.h.of, owner);
  const bool first = kBackward && slice() == 0 && place.tile == 0;  // before which there is no step
  if constexpr (kEdges) {
    const char *before = owner.slice > 0 ? memory.a.of + Fetched<ElementA>::at(owner.earlier(), kRun - 1)
                                         : edge_of<ElementA, true>(memory.a_before.of, owner.lane);
    const char *behind = owner.slice < kWarpSlices - 1 ? memory.h.of + Fetched<ElementH>::at(owner.later(), 0)
                                                       : edge_of<ElementH, false>(memory.h_behind.of, owner.lane);
    run.a_before = conjugated_if(p.conjugate, widened<Coefficient>(load_element<ElementA>(before)));
    run.h_behind = conjugated_if(p.conjugate, widened<State>(load_element<ElementH>(behind)));
  }
  if (kBackward && kComplex && p.conjugate) {
    conjugate(run.element_a);
    conjugate(run.element_h);
  }
  if (first) {
    if (kEdges)
      run.a_before = Op::idle();
    else
      run.element_a.set(0, narrowed<ElementA>(Op::idle()));
  }
  if (run.n < kRun) {
#pragma unroll
    for (int i = 0; i < kRun; ++i)
      if (i >= run.n) run.skip(i);
  }
  run.forget();
}

// grad_a of some steps of a run of n, from `from` on: summed over lanes and stored.
__device__ __forceinline__ void put_lane_sums(const ScanParams &p, const Place &place, int from, int n,
                                              const Coefficient (&products)[kPiece]) {
  const Operand &grad_a = p.operand[kGradA];
  char *first = global(place.first[kGradA]) + warp_lane() * grad_a.lane;
#pragma unroll
  for (int i = 0; i < kPiece; ++i) {
    Coefficient over_lanes = lane() < place.lanes ? products[i] : Coefficient{};
#pragma unroll
    for (int bits = 1; bits < kWarpLanes; bits *= 2) over_lanes = plus(over_lanes, shuffle_xor(over_lanes, bits));
    if (lane() == 0 && from + i < n) store_element(first + (slice() * kRun + from + i) * grad_a.step, over_lanes);
  }
}

// Walks a thread's run from the true state before it, stores the results, and returns the state after it. Sums of grad_a over
// the run are added to `sum`. kWhole: a tile of Place::words.
template <bool kWhole>
__device__ __forceinline__ State finish_tile(const ScanParams &p, const Place &place, const Run &run, State state,
                                             Sum &sum, WarpResults &memory) {
  const Mover mover;
  const Owner owner;
  PartWriter<Result<First>, kWhole> write_first(p, place, kBackward ? kGradX : kH, mover, memory.first.of);
  PartWriter<Result<ElementGradA>, kWhole && kStoresGradA> write_grad_a(p, place, kGradA, mover, memory.second.of);
  const int n = kWhole ? kRun : run.n;
  // Backward's last tile is not whole.
  const bool owns_last = !(kWhole && kBackward) && place.last && n > 0 && slice() * kRun + n == place.steps;
  State edge{};
  Coefficient over_run{};
  if (kBackward && owns_last) edge = conjugated_if(p.conjugate, load_state(p, kH0, place));
#pragma unroll
  for (int from = 0; from < kRun; from += kPiece) {
    Elements<First, kPiece> first{};
    Coefficient products[kPiece];
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      const int k = from + i;
      state = run.after(k, n, state);
      first.set(i, narrowed<First>(state));
      if constexpr (kBackward) products[i] = Op::outer(state, run.h(k));
    }
    // Past the last step the state is still that of the last.
    if constexpr (kBackward) {
      if (owns_last) {
        const Coefficient last = Op::outer(state, edge);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) products[i] = chosen(from + i == n - 1, last, products[i]);
      }
    }
    Result<First>::write(first, memory.first.of, owner);
    if constexpr (kStoresGradA) {
      Elements<ElementGradA, kPiece> grad_a{};
#pragma unroll
      for (int i = 0; i < kPiece; ++i) grad_a.set(i, narrowed<ElementGradA>(products[i]));
      Result<ElementGradA>::write(grad_a, memory.second.of, owner);
    } else if constexpr (kBackward && kSumSteps) {
#pragma unroll
      for (int i = 0; i < kPiece; ++i)
        if (from + i < n) over_run = plus(over_run, products[i]);
    } else if constexpr (kBackward) {
      put_lane_sums(p, place, from, n, products);
    }
    __syncwarp();
    write_first(from);
    if constexpr (kStoresGradA) write_grad_a(from);
    __syncwarp();
  }
  if constexpr (kBackward && kSumSteps) add(sum, widened<Sum>(over_run));
  if (owns_last) {
    State leaves = state;
    if constexpr (kBackward) {
      const Operand &a = p.operand[kA];
      const char *last = global(place.first[kA]) + (place.steps - 1 - shift_of(kA)) * a.step + lane() * a.lane;
      leaves = Op::times(Op::adjoint(widened<Coefficient>(load_element<ElementA>(last)), p.conjugate), state);
    }
    store_state(p, kLeaves, place, leaves);
  }
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
    if constexpr (kWidth > 32) {
      __syncthreads();
      if (thread() % 32 == 0) memory.scan.sums[warp()][0] = sum;
      __syncthreads();
      for (int w = 1; w < kWarps && thread() == 0; ++w) add(sum, memory.scan.sums[w][0]);
    }
    if (thread() == 0) store_element(at, sum);
  }
}

}  // namespace scanlib
