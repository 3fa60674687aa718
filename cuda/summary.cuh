// What a stretch of steps does to the state before it: state -> factor * state + local, the factor in two parts (factor.h).
//
// Summaries of neighbouring stretches are joined into one of both, in any grouping but always in order: this is what is scanned
// in parallel (Martin and Cundy 2018; Blelloch 1990). Where a product overflows on the way, joining can make Inf * 0 = NaN, or
// an Inf, that a serial loop would never meet. So each summary also bounds from above every |product| and |local| it passed
// through. Below the limits here, with a carry below its own, no state on the way can overflow, and the joined result is the
// serial one up to rounding. Above them the steps are walked one by one instead.
#pragma once
#include "elements.h"
#include "factor.h"
#include "machine.cuh"

namespace scanlib {

template <class T>
struct RealOf {
  using type = T;
};
template <class R>
struct RealOf<Complex<R>> {
  using type = R;
};

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

// Sizes, such that size(a * b) <= size(a) * size(b) and no step of that product overflows before it does.
__device__ __forceinline__ float size_of(float a) { return fabsf(a); }
__device__ __forceinline__ double size_of(double a) { return fabs(a); }
template <class R>
__device__ __forceinline__ R size_of(Complex<R> a) {
  return size_of(a.re) + size_of(a.im);
}
// fmax and fmin leave NaN out: a bound that became one is huge.
__device__ __forceinline__ float greater(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double greater(double a, double b) { return fmax(a, b); }
__device__ __forceinline__ float bounded(float a) { return fminf(a, Limits<float>::kHuge); }
__device__ __forceinline__ double bounded(double a) { return fmin(a, Limits<double>::kHuge); }

template <class T>
struct Summary {
  using R = typename RealOf<T>::type;
  Factor<Scalars<T>> factor;
  T local;
  R most_product, most_local;  // finite, at most kHuge
};

template <class T>
__device__ __forceinline__ T applied(const Summary<T> &s, T state) {
  return applied<Scalars<T>>(s.factor, state, s.local);
}

template <class T>
__device__ __forceinline__ Summary<T> nothing() {
  return {{unit(static_cast<T *>(nullptr)), T{}}, T{}, 1, 0};
}

// `first` and then `second`.
template <class T>
__device__ __forceinline__ Summary<T> joined(const Summary<T> &first, const Summary<T> &second) {
  return {after<Scalars<T>>(second.factor, first.factor), applied(second, first.local),
          greater(first.most_product, bounded(size_of(first.factor.high) * second.most_product)),
          greater(first.most_local, bounded(size_of(first.local) * second.most_product + second.most_local))};
}

template <class T>
__device__ __forceinline__ bool safe_carry(T carry) {
  return size_of(carry) <= Limits<typename RealOf<T>::type>::kCarry;  // false for NaN
}
template <class T>
__device__ __forceinline__ bool safe(const Summary<T> &s) {
  using L = Limits<typename RealOf<T>::type>;
  // Where an overflow met a zero, the bounds may be low again, but NaN stays.
  return s.most_product <= L::kProduct && s.most_local <= L::kLocal && size_of(s.factor.high) <= L::kHuge &&
         size_of(s.local) <= L::kHuge;
}

// The bounds in one word that is never zero, rounded up to what fits: 1 is the least that a product is bounded by.
__device__ __forceinline__ unsigned upper_half(float a) { return (to_bits(a) + 0xffffu) >> 16; }
__device__ __forceinline__ float from_upper_half(unsigned half, float *) { return from_bits(half << 16); }
__device__ __forceinline__ unsigned upper_half(double a) { return unsigned((to_bits(a) + 0xffffffffffffull) >> 48); }
__device__ __forceinline__ double from_upper_half(unsigned half, double *) {
  return from_bits((unsigned long long)half << 48);
}
template <class T>
__device__ __forceinline__ unsigned packed_bounds(const Summary<T> &s) {
  return upper_half(s.most_product) << 16 | upper_half(s.most_local);
}
template <class T>
__device__ __forceinline__ void unpack_bounds(unsigned packed, Summary<T> &s) {
  using R = typename RealOf<T>::type;
  s.most_product = from_upper_half(packed >> 16, static_cast<R *>(nullptr));
  s.most_local = from_upper_half(packed & 0xffffu, static_cast<R *>(nullptr));
}

// Of a thread's own steps, a(i) and x(i) of a run.
template <class T, int kCount, class Run>
__device__ __forceinline__ Summary<T> summarized(const Run &run) {
  Summary<T> s = nothing<T>();
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    s.local = mul_add(run.a(i), s.local, run.x(i));
    s.factor = after<Scalars<T>>(run.a(i), s.factor);
    s.most_local = greater(s.most_local, size_of(s.local));
    s.most_product = greater(s.most_product, size_of(s.factor.high));
  }
  // What is not finite stays so to the end, and NaN is not in the maxima: size * 0 is NaN then, and the bound huge.
  s.most_local = bounded(s.most_local + size_of(s.local) * 0);
  s.most_product = bounded(s.most_product + size_of(s.factor.high) * 0);
  return s;
}

}  // namespace scanlib
