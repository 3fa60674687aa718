// What a stretch of steps does to the state before it: state -> apply(factor, state, local) of an operator (linear.h).
//
// Summaries of neighbouring stretches are joined into one of both, in any grouping but always in order: this is what is scanned
// in parallel (Martin and Cundy 2018; Blelloch 1990). Where a product overflows on the way, joining can make Inf * 0 = NaN, or
// an Inf, that a serial loop would never meet. So where an operator is checked, each summary also bounds from above the size of
// every factor and local state it passed through. Below the limits here, with a carry below its own, no state on the way can
// overflow, and the joined result is the serial one up to rounding. Above them the steps are walked one by one instead.
#pragma once
#include "elements.h"
#include "machine.cuh"
#include "product.h"

namespace scanlib {

template <class R>
struct Limits;
template <>
struct Limits<float> {
  static constexpr float kProduct = 0x1p62f, kCarry = 0x1p62f, kLocal = 0x1p125f, kHuge = 0x1p127f;
};
template <>
struct Limits<double> {
  static constexpr double kProduct = 0x1p510, kCarry = 0x1p510, kLocal = 0x1p1021, kHuge = 0x1p1023;
};

// fmax and fmin leave NaN out: a bound that became one is huge.
__device__ __forceinline__ float greater(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double greater(double a, double b) { return fmax(a, b); }
__device__ __forceinline__ float bounded(float a) { return fminf(a, Limits<float>::kHuge); }
__device__ __forceinline__ double bounded(double a) { return fmin(a, Limits<double>::kHuge); }

// What is known of the sizes on the way: finite, at most kHuge. Nothing where an operator is not checked.
template <class Op, bool kChecked = Op::kChecked>
struct Bounds {
  typename Op::Size factor, local;

  static __device__ __forceinline__ Bounds none() { return {1, 0}; }
};
template <class Op>
struct Bounds<Op, false> {
  static __device__ __forceinline__ Bounds none() { return {}; }
};

template <class Op>
struct Summary {
  typename Op::Factor factor;
  typename Op::State local;
  Bounds<Op> most;
};

template <class Op>
__device__ __forceinline__ typename Op::State applied(const Summary<Op> &s, typename Op::State state) {
  return Op::apply(s.factor, state, s.local);
}

template <class Op>
__device__ __forceinline__ Summary<Op> nothing() {
  return {Op::unit(), Op::nothing(), Bounds<Op>::none()};
}

// `first` and then `second`.
template <class Op>
__device__ __forceinline__ Bounds<Op> joined_bounds(const Summary<Op> &first, const Summary<Op> &second) {
  if constexpr (Op::kChecked)
    return {greater(first.most.factor, bounded(Op::size(first.factor) * second.most.factor)),
            greater(first.most.local, bounded(Op::size(first.local) * second.most.factor + second.most.local))};
  else
    return {};
}
template <class Op>
__device__ __forceinline__ Summary<Op> joined(const Summary<Op> &first, const Summary<Op> &second) {
  return {Op::compose(second.factor, first.factor), applied(second, first.local), joined_bounds(first, second)};
}

template <class Op>
__device__ __forceinline__ bool safe_carry(typename Op::State carry) {
  if constexpr (Op::kChecked)
    return Op::size(carry) <= Limits<typename Op::Size>::kCarry;  // false for NaN
  else
    return true;
}
template <class Op>
__device__ __forceinline__ bool safe(const Summary<Op> &s) {
  if constexpr (Op::kChecked) {
    using L = Limits<typename Op::Size>;
    // Where an overflow met a zero, the bounds may be low again, but NaN stays.
    return s.most.factor <= L::kProduct && s.most.local <= L::kLocal && Op::size(s.factor) <= L::kHuge &&
           Op::size(s.local) <= L::kHuge;
  } else {
    return true;
  }
}

// The bounds in one word that is never zero, rounded up to what fits: 1 is the least that a product is bounded by.
__device__ __forceinline__ unsigned upper_half(float a) { return (to_bits(a) + 0xffffu) >> 16; }
__device__ __forceinline__ float from_upper_half(unsigned half, float *) { return from_bits(half << 16); }
__device__ __forceinline__ unsigned upper_half(double a) { return unsigned((to_bits(a) + 0xffffffffffffull) >> 48); }
__device__ __forceinline__ double from_upper_half(unsigned half, double *) {
  return from_bits((unsigned long long)half << 48);
}
template <class Op>
__device__ __forceinline__ unsigned packed(const Bounds<Op> &most) {
  if constexpr (Op::kChecked)
    return upper_half(most.factor) << 16 | upper_half(most.local);
  else
    return 1;
}
template <class Op>
__device__ __forceinline__ Bounds<Op> unpacked(unsigned word) {
  Bounds<Op> most;
  if constexpr (Op::kChecked) {
    most.factor = from_upper_half(word >> 16, static_cast<typename Op::Size *>(nullptr));
    most.local = from_upper_half(word & 0xffffu, static_cast<typename Op::Size *>(nullptr));
  }
  return most;
}

// Of a thread's own steps: a(i), x(i) and cut(i) of a run.
template <class Op, int kCount, class Run>
__device__ __forceinline__ Summary<Op> summarized(const Run &run) {
  Summary<Op> s = nothing<Op>();
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (run.cut(i)) {
      s.local = run.x(i);
      s.factor = Op::forget();
    } else {
      s.local = Op::step(run.a(i), s.local, run.x(i));
      s.factor = Op::compose(run.a(i), s.factor);
    }
    if constexpr (Op::kChecked) {
      s.most.local = greater(s.most.local, Op::size(s.local));
      s.most.factor = greater(s.most.factor, Op::size(s.factor));
    }
  }
  // What is not finite stays so to the end, and NaN is not in the maxima: size * 0 is NaN then, and the bound huge. Where nothing enters
  // a step it ends there, and what was lost before makes no difference after it.
  if constexpr (Op::kChecked) {
    s.most.local = bounded(s.most.local + Op::size(s.local) * 0);
    s.most.factor = bounded(s.most.factor + Op::size(s.factor) * 0);
  }
  return s;
}

}  // namespace scanlib
