// A vector register of lanes, real or complex, on GCC's and Clang's vector extensions: one text for every instruction set.
//
// Everything is a multiply-add written as `a * b + c`, which the compiler contracts to one rounding wherever the instruction
// set has it (-ffp-contract=fast). Full and partial vectors go through the same arithmetic, so that a result never depends on
// where in a vector its lane lies.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define SCANLIB_INLINE inline __attribute__((always_inline))
#define SCANLIB_LAMBDA __attribute__((always_inline))

namespace scanlib {
namespace {  // each instruction set has its own copy: never shared by the linker

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class Pick, class V, int... I>
SCANLIB_INLINE V shuffle_lanes(V a, V b, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, Pick::at(I)...);
#else
  using R = std::decay_t<decltype(a[0])>;
  using Index = std::conditional_t<sizeof(R) == 4, int32_t, int64_t>;
  typedef Index Mask __attribute__((vector_size(sizeof(V))));
  return __builtin_shuffle(a, b, Mask{Pick::at(I)...});
#endif
}

// Lane i of the result is lane Pick::at(i) of a followed by b.
template <class Pick, int W, class V>
SCANLIB_INLINE V shuffle(V a, V b) {
  return shuffle_lanes<Pick>(a, b, std::make_integer_sequence<int, W>());
}

template <int W, int K, bool Down>
struct ShiftPick {
  static constexpr int at(int i) { return Down ? (i + K < W ? i + K : W + i) : (i >= K ? i - K : W + i); }
};
template <int W, bool Odd>
struct HalfPick {  // every other lane of a and b
  static constexpr int at(int i) { return 2 * i + (Odd ? 1 : 0); }
};
template <int W, bool High>
struct ZipPick {  // a and b lane by lane
  static constexpr int at(int i) { return (High ? W / 2 : 0) + i / 2 + (i % 2 ? W : 0); }
};

template <int Lane>
struct LanePick {  // one lane of a, everywhere
  static constexpr int at(int) { return Lane; }
};

template <class R>
struct RealLanes {
  using Elem = R;
  typedef R Vec __attribute__((vector_size(kVectorBytes)));
  static constexpr int W = kVectorBytes / int(sizeof(R));

  static SCANLIB_INLINE Vec load(const Elem *p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static SCANLIB_INLINE void store(Elem *p, Vec v) { std::memcpy(p, &v, sizeof v); }
  static SCANLIB_INLINE Vec all(Elem value) { return value - Vec{}; }  // value - 0 keeps the sign of zero
  static SCANLIB_INLINE Vec load_part(const Elem *p, int64_t n, Elem fill) {
#if defined(__AVX512F__)
    if constexpr (sizeof(R) == 4)
      return Vec(_mm512_mask_loadu_ps(__m512(all(fill)), __mmask16((1u << n) - 1), p));
    else
      return Vec(_mm512_mask_loadu_pd(__m512d(all(fill)), __mmask8((1u << n) - 1), p));
#else
    Elem lanes[W];
    for (int i = 0; i < W; ++i) lanes[i] = fill;
    for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
#endif
  }
  static SCANLIB_INLINE void store_part(Elem *p, Vec v, int64_t n) {
#if defined(__AVX512F__)
    if constexpr (sizeof(R) == 4)
      _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), __m512(v));
    else
      _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), __m512d(v));
#else
    Elem lanes[W];
    store(lanes, v);
    for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
#endif
  }
  static SCANLIB_INLINE Vec mul(Vec a, Vec b) { return a * b; }
  static SCANLIB_INLINE Vec mul_add(Vec a, Vec b, Vec c) { return a * b + c; }
  static SCANLIB_INLINE Vec conj(Vec a) { return a; }
  static SCANLIB_INLINE Elem lane(Vec v, int i) { return v[i]; }
  template <class Pick>
  static SCANLIB_INLINE Vec pick(Vec a, Vec b) {
    return shuffle<Pick, W>(a, b);
  }
  // A sum that is NaN in each lane that was ever not finite.
  static SCANLIB_INLINE Vec taint(Vec v, Vec sum) { return v * Vec{} + sum; }
  static SCANLIB_INLINE bool tainted(Vec sum) {
    auto is_nan = sum != sum;
    int64_t words[kVectorBytes / 8], any = 0;
    std::memcpy(words, &is_nan, sizeof words);
    for (int64_t word : words) any |= word;
    return any != 0;
  }

  static constexpr Elem one() { return 1; }
  static constexpr Elem zero() { return 0; }
  static SCANLIB_INLINE Elem mul_add1(Elem a, Elem b, Elem c) { return a * b + c; }
  static SCANLIB_INLINE Elem mul1(Elem a, Elem b) { return a * b; }
  static SCANLIB_INLINE Elem conj1(Elem a) { return a; }
};

template <class R>
struct ComplexLanes {
  using Real = RealLanes<R>;
  using Elem = Complex<R>;
  using V = typename Real::Vec;
  struct Vec {
    V re, im;
  };
  static constexpr int W = Real::W;

  static SCANLIB_INLINE Vec split(V low, V high) {
    return {shuffle<HalfPick<W, false>, W>(low, high), shuffle<HalfPick<W, true>, W>(low, high)};
  }
  static SCANLIB_INLINE Vec load(const Elem *p) {
    const R *q = reinterpret_cast<const R *>(p);
    return split(Real::load(q), Real::load(q + W));
  }
  static SCANLIB_INLINE void store(Elem *p, Vec v) {
    R *q = reinterpret_cast<R *>(p);
    Real::store(q, shuffle<ZipPick<W, false>, W>(v.re, v.im));
    Real::store(q + W, shuffle<ZipPick<W, true>, W>(v.re, v.im));
  }
  static SCANLIB_INLINE Vec all(Elem value) { return {Real::all(value.re), Real::all(value.im)}; }
  static SCANLIB_INLINE Vec load_part(const Elem *p, int64_t n, Elem fill) {
    Elem lanes[W];
    for (int i = 0; i < W; ++i) lanes[i] = fill;
    for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
  }
  static SCANLIB_INLINE void store_part(Elem *p, Vec v, int64_t n) {
    Elem lanes[W];
    store(lanes, v);
    for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
  }
  static SCANLIB_INLINE Vec mul(Vec a, Vec b) {
    V re = a.im * b.im, im = a.im * b.re;
    return {a.re * b.re - re, a.re * b.im + im};
  }
  static SCANLIB_INLINE Vec mul_add(Vec a, Vec b, Vec c) {
    V re = c.re - a.im * b.im, im = a.im * b.re + c.im;
    return {a.re * b.re + re, a.re * b.im + im};
  }
  static SCANLIB_INLINE Vec conj(Vec a) { return {a.re, -a.im}; }
  static SCANLIB_INLINE Elem lane(Vec v, int i) { return {v.re[i], v.im[i]}; }
  template <class Pick>
  static SCANLIB_INLINE Vec pick(Vec a, Vec b) {
    return {shuffle<Pick, W>(a.re, b.re), shuffle<Pick, W>(a.im, b.im)};
  }
  static SCANLIB_INLINE Vec taint(Vec v, Vec sum) { return {Real::taint(v.re, sum.re), Real::taint(v.im, sum.im)}; }
  static SCANLIB_INLINE bool tainted(Vec sum) { return Real::tainted(sum.re) || Real::tainted(sum.im); }

  static constexpr Elem one() { return {1, 0}; }
  static constexpr Elem zero() { return {0, 0}; }
  static SCANLIB_INLINE Elem mul_add1(Elem a, Elem b, Elem c) {
    R re = c.re - a.im * b.im, im = a.im * b.re + c.im;
    return {a.re * b.re + re, a.re * b.im + im};
  }
  static SCANLIB_INLINE Elem mul1(Elem a, Elem b) {
    R re = a.im * b.im, im = a.im * b.re;
    return {a.re * b.re - re, a.re * b.im + im};
  }
  static SCANLIB_INLINE Elem conj1(Elem a) { return {a.re, -a.im}; }
};

template <class T>
struct LanesOf {
  using type = RealLanes<T>;
};
template <class R>
struct LanesOf<Complex<R>> {
  using type = ComplexLanes<R>;
};

}  // namespace
}  // namespace scanlib
