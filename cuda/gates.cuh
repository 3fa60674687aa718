// Gates: a source that opens columns of a projection, and a sink that reads from the states (run.cuh). native/scanlib.h says what a
// gated recurrence is, and native/gated.cpp is the same on a CPU.
//
// The source has the columns that it needs copied like any operand, and keeps decay and input in registers. The sink takes what it
// needs again, and what only it needs, straight from memory, where neighbouring lanes are neighbours; most of it is in a cache since.
// Lanes are always those of columns.
#pragma once
#include "activations.h"

namespace scanlib {

static_assert(!kRows && !SCANLIB_SUM, "gates lie in columns, and so do their gradients");

enum Reading { kReadAfter = 0, kReadBefore = 1, kReadGated = 2 };  // scanlib_reading
constexpr Reading kReading = Reading(SCANLIB_READING);
constexpr bool kOwnInput = SCANLIB_INPUT;

// Of a number of either type.
__device__ __forceinline__ float exponential(float v) { return expf(v); }
__device__ __forceinline__ double exponential(double v) { return exp(v); }
__device__ __forceinline__ float hyperbolic_tangent(float v) { return tanhf(v); }
__device__ __forceinline__ double hyperbolic_tangent(double v) { return tanh(v); }
__device__ __forceinline__ float exponential_less_one(float v) { return expm1f(v); }
__device__ __forceinline__ double exponential_less_one(double v) { return expm1(v); }

// Functions of single numbers, as activations.h wants them.
template <class R>
struct Functions {
  using V = R;
  static __device__ __forceinline__ R number(double value) { return R(value); }
  static __device__ __forceinline__ R sigmoid(R v) {
    const R e = exponential(-size_of(v));  // with full relative precision for negative v
    return (v < 0 ? e : R(1)) / (R(1) + e);
  }
  static __device__ __forceinline__ R tanh(R v) { return hyperbolic_tangent(v); }
  static __device__ __forceinline__ R expm1(R v) { return exponential_less_one(v); }
};

using Candidate = Choice<SCANLIB_CANDIDATE, Identity, Tanh, Elu, Positive>::type;  // in the order of scanlib_candidate
using A = Functions<Value>;
using Step = GateStep<A>;

using Element = ElementA;  // of all operands but the mask
constexpr int kPiece = kRun < 16 / int(sizeof(Element)) ? kRun : 16 / int(sizeof(Element));
using Fetched = Part<Element, kRun>;
using Result = Part<Element, kPiece>;
constexpr bool kAllWords = Fetched::kWords && Result::kWords;

// Forward: columns of decay, candidate and input. Backward: of the decay one step before, the output, and grad_h, where the state
// before a step is read also one step before.
struct alignas(16) WarpInputs {
  Buffer<Fetched::kBytes> decay, second;
  Buffer<(kBackward ? kReading == kReadGated : kOwnInput) ? Fetched::kBytes : 0> third;
};
struct alignas(16) WarpResults {
  Buffer<Result::kBytes> each;  // of one result after the other
};

constexpr int kGradShift = kReading == kReadBefore ? -1 : 0;

template <bool kWhole, bool kWholeColumns>
__device__ __forceinline__ void start_tile(const ScanParams &p, const Place &place, WarpInputs &memory) {
  const Mover mover;
  const Operand &columns = p.operand[kA];
  char *const decay = global(place.first[kA]), *const own = decay - shift_of(kA) * columns.step;
  start_part<Element, kWholeColumns>(columns, decay, place, shift_of(kA), mover, memory.decay.of);
  if constexpr (kBackward) {
    const Operand &grad = p.operand[kGradH];
    char *const first = global(place.first[kGradH]) + kGradShift * grad.step;
    start_part<Element, kWhole>(grad, first, place, kGradShift, mover, memory.second.of);
    if constexpr (kReading == kReadGated)
      start_part<Element, kWholeColumns>(columns, own + p.gates.output, place, 0, mover, memory.third.of);
  } else {
    start_part<Element, kWholeColumns>(columns, own + p.gates.candidate, place, 0, mover, memory.second.of);
    if constexpr (kOwnInput)
      start_part<Element, kWholeColumns>(columns, own + p.gates.input, place, 0, mover, memory.third.of);
  }
}

// Backward: a is the decay one step before, x what reaches the state from its output.
struct Run : Starts {
  Elements<Value, kRun> element_a, element_x;
  int n;  // steps that exist

  __device__ __forceinline__ Coefficient a(int i) const { return element_a[i]; }
  __device__ __forceinline__ State x(int i) const { return element_x[i]; }
  __device__ __forceinline__ void forget() {}
  // Lets step i start from a state that enters there alone. In backward nothing reaches it from the output of a step before.
  __device__ __forceinline__ void start(int i, State enters) {
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      if (k != i || k >= n) continue;
      const State own = kBackward && kReading == kReadBefore ? Op::nothing() : x(k);
      element_x.set(k, Op::step(kBackward ? Op::idle() : a(k), enters, own));
      cuts |= 1u << k;
    }
  }
};

__device__ __forceinline__ void read_tile(const ScanParams &p, const Place &place, WarpInputs &memory, Run &run) {
  const int left = lane() < place.lanes ? place.steps - slice() * kRun : 0;
  run.n = left < 0 ? 0 : left < kRun ? left : kRun;
  run.read_starts(p, place, run.n);
  const Owner owner;
  Elements<Element, kRun> decay, second, third;
  Fetched::read(decay, memory.decay.of, owner);
  Fetched::read(second, memory.second.of, owner);
  if constexpr (kBackward ? kReading == kReadGated : kOwnInput) Fetched::read(third, memory.third.of, owner);
  const Value sign = Value(p.gates.sign);
  const bool first = slice() == 0 && place.tile == 0;  // before which there is no step
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const Value f = Step::decay(widened<Value>(decay[i]), sign);
    Value a = f, x = widened<Value>(second[i]);
    if constexpr (kBackward) {
      if constexpr (kReading == kReadGated) x = A::sigmoid(widened<Value>(third[i])) * x;
      const bool none = first && i == 0;
      a = none ? Op::idle() : f;
      if (kReading == kReadBefore && (none || run.cut(i))) x = 0;
    } else {
      Value in = A::number(1) - f;
      if constexpr (kOwnInput) in = A::sigmoid(widened<Value>(third[i]));
      x = in * Candidate::template value<A>(x);
    }
    const bool exists = i < run.n;
    run.element_a.set(i, exists ? a : Op::idle());
    run.element_x.set(i, exists ? x : Op::idle_input());
  }
  if constexpr (kPacked)
    each_start(p, place, run,
               [&](int i, long long, long long begun) { run.start(i, load_state(p, kEnters, place, begun)); });
}

// Forward: h, and y where the output is gated. Backward: the gradients of the columns.
template <bool kWhole>
class Sink {
 public:
  static constexpr int kResults = kBackward ? 2 + kOwnInput + (kReading == kReadGated) : 1 + (kReading == kReadGated);
  // What is read of a step, as it lies.
  struct Taken {
    Element decay, candidate, input, output, before, h, grad;
  };
  struct Piece {
    Taken taken[kPiece];
    Elements<Element, kPiece> results[kResults]{};
  };

  __device__ __forceinline__ Sink(const ScanParams &p, const Place &place, const Mover &mover, const Owner &owner,
                                  WarpResults &memory)
      : p_(p), place_(place), mover_(mover), owner_(owner), memory_(memory) {}

  __device__ __forceinline__ void expect_last() { owns_last_ = true; }
  __device__ __forceinline__ void begin(Piece &piece, const Run &run, int from, int n) {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      const int k = from + i;
      Taken &t = piece.taken[i];
      t = {};
      if (k >= n) continue;
      if constexpr (kBackward) {
        t.decay = column(k, 0);
        t.candidate = column(k, p_.gates.candidate);
        if constexpr (kOwnInput) t.input = column(k, p_.gates.input);
        if constexpr (kReading == kReadBefore)
          t.before = state(kH, k);
        else if (!(owns_last_ && k == n - 1))
          t.before = state(kH, k + 1);
        if constexpr (kReading == kReadGated) {
          t.output = column(k, p_.gates.output);
          t.h = state(kH, k);
          t.grad = state(kGradH, k);
        }
      } else if constexpr (kReading == kReadGated) {
        t.output = column(k, p_.gates.output);
      }
    }
    // The state before a segment's first step, be it walked first or last.
    if constexpr (kPacked && kBackward != (kReading == kReadBefore))
      each_start(p_, place_, run, [&](int k, long long ended, long long begun) {
        const Element before = narrowed<Element>(load_state(p_, kH0, place_, kBackward ? ended : begun));
#pragma unroll
        for (int i = 0; i < kPiece; ++i)
          if (from + i == (kBackward ? k - 1 : k)) piece.taken[i].before = before;
      });
    last_ = owns_last_ && !kPacked ? n - 1 : -1;
  }
  __device__ __forceinline__ void take(Piece &piece, const Run &run, int i, int k, State before, State state) {
    const Taken &t = piece.taken[i];
    if constexpr (!kBackward) {
      const Value h = kReading != kReadBefore ? state : run.cut(k) ? widened<Value>(t.before) : before;
      piece.results[0].set(i, narrowed<Element>(h));
      if constexpr (kReading == kReadGated)
        piece.results[1].set(i, narrowed<Element>(A::sigmoid(widened<Value>(t.output)) * h));
    } else {
      const Value sign = Value(p_.gates.sign), f = Step::decay(widened<Value>(t.decay), sign);
      const Value v = widened<Value>(t.candidate), z = Candidate::template value<A>(v);
      const Value in = kOwnInput ? A::sigmoid(widened<Value>(t.input)) : A::number(1) - f;
      Value h_before = widened<Value>(t.before);
      if (kReading != kReadBefore && k == last_) h_before = load_state(p_, kH0, place_);
      const Value through = run.masked_at(k) ? Value(0) : state * h_before;
      const Step::Grads grads =
          Step::columns(state, through, f, sign, kOwnInput, in, z, Candidate::template slope<A>(v, z));
      piece.results[0].set(i, narrowed<Element>(grads.decay));
      piece.results[1].set(i, narrowed<Element>(grads.candidate));
      if constexpr (kOwnInput) piece.results[2].set(i, narrowed<Element>(grads.input));
      if constexpr (kReading == kReadGated) {
        const Value o = A::sigmoid(widened<Value>(t.output));
        piece.results[kResults - 1].set(
            i, narrowed<Element>(Step::output(widened<Value>(t.grad), widened<Value>(t.h), o)));
      }
    }
  }
  __device__ __forceinline__ void put(const Piece &piece, const Run &, int from, int, State) {
    if constexpr (kBackward) {
      put_one(piece.results[0], kGradA, 0, from);
      put_one(piece.results[1], kGradA, p_.gates.candidate, from);
      if constexpr (kOwnInput) put_one(piece.results[2], kGradA, p_.gates.input, from);
      if constexpr (kReading == kReadGated) put_one(piece.results[kResults - 1], kGradA, p_.gates.output, from);
    } else {
      put_one(piece.results[0], kH, 0, from);
      if constexpr (kReading == kReadGated) put_one(piece.results[1], kY, 0, from);
    }
  }
  __device__ __forceinline__ void close(Sum &) const {}
  __device__ __forceinline__ State leaving(const Run &run, int end, State state_) const {
    if constexpr (kBackward) {
      const int last = end - 1 - slice() * kRun;
      if (run.masked_at(last)) return Op::nothing();
      const Value f = Step::decay(widened<Value>(column(last, 0)), Value(p_.gates.sign));
      const State leaves = Op::times(f, state_);
      return kReading == kReadBefore ? leaves + widened<Value>(state(kGradH, last)) : leaves;
    } else {
      return state_;
    }
  }

 private:
  // Of step k of the run: an element of a sequence, and of a gate, so many bytes from the decay's.
  __device__ __forceinline__ Element state(int role, int k) const {
    const Operand &operand = p_.operand[role];
    return load_element<Element>(global(place_.first[role]) + (slice() * kRun + k) * operand.step +
                                 lane() * operand.lane);
  }
  __device__ __forceinline__ Element column(int k, long long offset) const {
    const Operand &operand = p_.operand[kA];
    return load_element<Element>(global(place_.first[kA]) + (slice() * kRun + k - shift_of(kA)) * operand.step +
                                 lane() * operand.lane + offset);
  }
  __device__ __forceinline__ void put_one(const Elements<Element, kPiece> &result, int role, long long offset,
                                          int from) {
    const PartWriter<Result, kWhole> write(p_, place_, role, mover_, memory_.each.of, offset);
    Result::write(result, memory_.each.of, owner_);
    __syncwarp();
    write(from);
    __syncwarp();
  }

  const ScanParams &p_;
  const Place &place_;
  const Mover &mover_;
  const Owner &owner_;
  WarpResults &memory_;
  bool owns_last_ = false;
  int last_ = -1;  // the run's number of the last step of all, where it has that
};

}  // namespace scanlib
