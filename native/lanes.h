// Vector registers of lanes, real or complex (real_lanes.h), and what they do to a lane on its own.
#pragma once
#include "real_lanes.h"

namespace scanlib {
namespace {

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
  static SCANLIB_INLINE Vec number(double value) { return {Real::number(value), V{}}; }
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
  static SCANLIB_INLINE Product<ComplexLanes> exact_product(Vec a, Vec b) {
    const ComplexProduct<Real, Vec> product(a, b);
    return {product.high, product.low};
  }
  static SCANLIB_INLINE Vec conj(Vec a) { return {a.re, -a.im}; }
  static SCANLIB_INLINE Elem lane(Vec v, int i) { return {v.re[i], v.im[i]}; }
  template <class Pick>
  static SCANLIB_INLINE Vec pick(Vec a, Vec b) {
    return {shuffle<Pick, W>(a.re, b.re), shuffle<Pick, W>(a.im, b.im)};
  }
  static SCANLIB_INLINE void transpose(Vec (&v)[W]) {
    V re[W], im[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) re[i] = v[i].re, im[i] = v[i].im;
    Real::transpose(re);
    Real::transpose(im);
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) v[i] = {re[i], im[i]};
  }
  static SCANLIB_INLINE Vec chosen(const char *where, int64_t n, Vec yes, Vec no) {
    return {Real::chosen(where, n, yes.re, no.re), Real::chosen(where, n, yes.im, no.im)};
  }
  static SCANLIB_INLINE Vec taint(Vec v, Vec sum) { return {Real::taint(v.re, sum.re), Real::taint(v.im, sum.im)}; }
  static SCANLIB_INLINE bool tainted(Vec sum) { return Real::tainted(sum.re) || Real::tainted(sum.im); }

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

// A lane on its own: what L does to each of its lanes, bit for bit.
template <class L>
struct Single {
  using Elem = typename L::Elem;
  using Vec = Elem;
  static SCANLIB_INLINE Vec number(double value) { return L::lane(L::number(value), 0); }
  static SCANLIB_INLINE Vec mul(Vec a, Vec b) { return L::mul1(a, b); }
  static SCANLIB_INLINE Vec mul_add(Vec a, Vec b, Vec c) { return L::mul_add1(a, b, c); }
  static SCANLIB_INLINE Vec conj(Vec a) { return L::conj1(a); }
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
