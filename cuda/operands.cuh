// Operands as they lie: a source and a sink (run.cuh).
//
// In backward x is grad_h, and the sink makes grad_a_k = grad_x_k h_{k+1}, where after the last stands the initial state; a and h are conjugated where
// the caller's convention is. So h is read one step behind.
#pragma once

namespace scanlib {

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

// What is held of x and h where states are put in their place, which are not to be narrowed.
template <class E>
using Held = typename If<kPacked, Value, E>::type;

constexpr bool kAllWords = Fetched<ElementA>::kWords && Fetched<ElementX>::kWords && Result<First>::kWords &&
                           (!kBackward || Fetched<ElementH>::kWords) && (!kStoresGradA || Result<ElementGradA>::kWords);

// In backward x is grad_h.
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
struct Run : Starts {
  // In backward conjugated where that is wanted.
  Elements<ElementA, kRun> element_a;
  Elements<Held<ElementX>, kRun> element_x;
  Elements<Held<ElementH>, kRun> element_h;
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
    element_x.set(i, narrowed<Held<ElementX>>(Op::idle_input()));
  }
  // Lets step i start from a state that enters there alone, and the step before it, or the last of all, have come from `earlier`.
  __device__ __forceinline__ void start(int i, State enters, State earlier) {
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      // Chosen, for of what is stored under a condition the compiler makes an array in memory.
      const bool here = k == i && k < n;
      const State own = x(k), begun = Op::step(kBackward ? Op::adjoint(Op::idle(), false) : a(k), enters, own);
      element_x.set(k, narrowed<Held<ElementX>>(chosen(here, begun, own)));
      cuts |= unsigned(here) << k;
      if constexpr (kBackward) {
        const State before = chosen(k == i - 1, earlier, h(k));
        if (kEdges && k == kRun - 1)
          h_behind = before;
        else
          element_h.set(kEdges ? k + 1 : k, narrowed<Held<ElementH>>(before));
      }
    }
  }
};

template <class E>
__device__ __forceinline__ void read_held(Elements<Held<E>, kRun> &to, const char *part, const Owner &owner) {
  if constexpr (kPacked) {
    Elements<E, kRun> elements;
    Fetched<E>::read(elements, part, owner);
#pragma unroll
    for (int i = 0; i < kRun; ++i) to.set(i, widened<Value>(elements[i]));
  } else {
    Fetched<E>::read(to, part, owner);
  }
}

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

// Whether `a` is the same at all steps, so that a thread takes it from a cache rather than copy it again for each.
__device__ __forceinline__ bool repeats(const ScanParams &p) { return p.operand[kA].step == 0; }

// Starts copies of the warp's part of a tile. kWhole: of Place::words; kWholeA: with `a`.
template <bool kWhole, bool kWholeA>
__device__ __forceinline__ void start_tile(const ScanParams &p, const Place &place, WarpInputs &memory) {
  const Mover mover;
  const bool has_steps = !repeats(p);
  if (has_steps) start_part<ElementA, kWholeA>(p, place, kA, mover, memory.a.of);
  start_part<ElementX, kWhole>(p, place, kBackward ? kGradH : kX, mover, memory.x.of);
  if constexpr (kBackward) start_part<ElementH, kWhole>(p, place, kH, mover, memory.h.of);
  if constexpr (kEdges) {
    const int before = mover.step - 1, behind = mover.step + kWarpSteps;
    if (mover.thread < kWarpLanes && (kWhole || mover.lane + int(mover.thread) < place.lanes)) {
      if (has_steps && (kWhole || ((before >= 0 || place.tile > 0) && before < place.steps)))
        start_edge<ElementA, true, kWholeA>(p, place, kA, before, mover, memory.a_before.of);
      if (kWhole || behind < place.steps || !place.last)
        start_edge<ElementH, false, kWhole>(p, place, kH, behind, mover, memory.h_behind.of);
    }
  }
}
// The thread's run of a tile whose copies have arrived.
__device__ __forceinline__ void read_tile(const ScanParams &p, const Place &place, WarpInputs &memory, Run &run) {
  const int left = lane() < place.lanes ? place.steps - slice() * kRun : 0;
  run.n = left < 0 ? 0 : left < kRun ? left : kRun;
  const Owner owner;
  read_held<ElementX>(run.element_x, memory.x.of, owner);
  if (repeats(p)) {
    ElementA repeated{};
    if (lane() < place.lanes) repeated = load_element<ElementA>(global(place.first[kA]) + lane() * p.operand[kA].lane);
#pragma unroll
    for (int i = 0; i < kRun; ++i) run.element_a.set(i, repeated);
  } else {
    Fetched<ElementA>::read(run.element_a, memory.a.of, owner);
  }
  if constexpr (kBackward) read_held<ElementH>(run.element_h, memory.h.of, owner);
  const bool first = kBackward && slice() == 0 && place.tile == 0;  // before which there is no step
  if constexpr (kEdges) {
    const char *before = owner.slice > 0 ? memory.a.of + Fetched<ElementA>::at(owner.earlier(), kRun - 1)
                                         : edge_of<ElementA, true>(memory.a_before.of, owner.lane);
    const char *behind = owner.slice < kWarpSlices - 1 ? memory.h.of + Fetched<ElementH>::at(owner.later(), 0)
                                                       : edge_of<ElementH, false>(memory.h_behind.of, owner.lane);
    const Coefficient a_before = widened<Coefficient>(repeats(p) ? run.element_a[0] : load_element<ElementA>(before));
    run.a_before = conjugated_if(p.conjugate, a_before);
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
  run.read_starts(p, place, run.n);
  if constexpr (kPacked)
    each_start(p, place, run, [&](int i, long long ended, long long begun) {
      const State earlier = kBackward ? conjugated_if(p.conjugate, load_state(p, kH0, place, ended)) : State{};
      run.start(i, load_state(p, kEnters, place, begun), earlier);
    });
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

template <bool kWhole>
class Sink {
 public:
  struct Piece {
    Elements<First, kPiece> first{};
    Coefficient products[kPiece];
  };

  __device__ __forceinline__ Sink(const ScanParams &p, const Place &place, const Mover &mover, const Owner &owner,
                                  WarpResults &memory)
      : p_(p),
        place_(place),
        owner_(owner),
        memory_(memory),
        write_first_(p, place, kBackward ? kGradX : kH, mover, memory.first.of),
        write_grad_a_(p, place, kGradA, mover, memory.second.of) {}

  __device__ __forceinline__ void expect_last() {
    owns_last_ = true;
    if (kBackward && !kPacked) edge_ = conjugated_if(p_.conjugate, load_state(p_, kH0, place_));
  }
  __device__ __forceinline__ void begin(Piece &, const Run &, int, int) const {}
  __device__ __forceinline__ void take(Piece &piece, const Run &run, int i, int k, State, State state) {
    piece.first.set(i, narrowed<First>(state));
    if constexpr (kBackward) piece.products[i] = Op::outer(state, run.h(k));
  }
  __device__ __forceinline__ void put(Piece &piece, const Run &run, int from, int n, State state) {
    // Past the last step the state is still that of the last.
    if constexpr (kBackward && !kPacked) {
      if (owns_last_) {
        const Coefficient last = Op::outer(state, edge_);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) piece.products[i] = chosen(from + i == n - 1, last, piece.products[i]);
      }
    }
    if constexpr (kBackward && kMasked) {
#pragma unroll
      for (int i = 0; i < kPiece; ++i)
        piece.products[i] = chosen(run.masked_at(from + i), Coefficient{}, piece.products[i]);
    }
    Result<First>::write(piece.first, memory_.first.of, owner_);
    if constexpr (kStoresGradA) {
      Elements<ElementGradA, kPiece> grad_a{};
#pragma unroll
      for (int i = 0; i < kPiece; ++i) grad_a.set(i, narrowed<ElementGradA>(piece.products[i]));
      Result<ElementGradA>::write(grad_a, memory_.second.of, owner_);
    } else if constexpr (kBackward && kSumSteps) {
#pragma unroll
      for (int i = 0; i < kPiece; ++i)
        if (from + i < n) over_run_ = plus(over_run_, piece.products[i]);
    } else if constexpr (kBackward) {
      put_lane_sums(p_, place_, from, n, piece.products);
    }
    __syncwarp();
    write_first_(from);
    if constexpr (kStoresGradA) write_grad_a_(from);
    __syncwarp();
  }
  __device__ __forceinline__ void close(Sum &sum) const {
    if constexpr (kBackward && kSumSteps) add(sum, widened<Sum>(over_run_));
  }
  __device__ __forceinline__ State leaving(const Run &run, int end, State state) const {
    if constexpr (kBackward) {
      if (run.masked_at(end - 1 - slice() * kRun)) return Op::nothing();
      const Operand &a = p_.operand[kA];
      const char *last = global(place_.first[kA]) + (end - 1 - shift_of(kA)) * a.step + lane() * a.lane;
      return Op::times(Op::adjoint(widened<Coefficient>(load_element<ElementA>(last)), p_.conjugate), state);
    } else {
      return state;
    }
  }

 private:
  const ScanParams &p_;
  const Place &place_;
  const Owner &owner_;
  WarpResults &memory_;
  PartWriter<Result<First>, kWhole> write_first_;
  PartWriter<Result<ElementGradA>, kWhole && kStoresGradA> write_grad_a_;
  bool owns_last_ = false;
  State edge_{};
  Coefficient over_run_{};
};

}  // namespace scanlib
