// exp, sigmoid, tanh and their kin on vectors of real lanes: one text for every instruction set, at most 3 units in the last
// place from the true value, exact at infinities, NaN for NaN.
#pragma once
#include "../cuda/activations.h"
#include "lanes.h"
#include "scanlib.h"

namespace scanlib {
namespace {

// ln 2 in two parts, of which the high one times any exponent is exact; the number into whose last bits a rounded exponent is
// added; the v below which exp(v) is 0; the terms of the Taylor series of exp(r) - 1 that |r| <= ln 2 / 2 needs.
template <class R>
struct ExpOf;
template <>
struct ExpOf<float> {
  using Bits = int32_t;
  static constexpr float kLog2e = 1.44269504088896341f, kHigh = 0.693359375f, kLow = -2.12194440e-4f;
  static constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23
  static constexpr float kLeast = -110;
  static constexpr int kTerms = 7, kMantissa = 23, kBias = 127;
};
template <>
struct ExpOf<double> {
  using Bits = int64_t;
  static constexpr double kLog2e = 1.4426950408889634074, kHigh = 6.93147180369123816490e-01,
                          kLow = 1.90821492927058770002e-10;
  static constexpr double kRounder = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLeast = -800;
  static constexpr int kTerms = 13, kMantissa = 52, kBias = 1023;
};

template <class R>
struct Activations {
  using L = RealLanes<R>;
  using V = typename L::Vec;
  using E = ExpOf<R>;
  static SCANLIB_INLINE V number(double value) { return L::number(value); }
  typedef typename E::Bits Bits __attribute__((vector_size(kVectorBytes)));

  // exp(v) = scale + scale * rest for v <= 0, where `scale` is a power of two.
  struct Exp {
    V scale, rest;
  };
  static SCANLIB_INLINE Exp exp_parts(V v) {
    v = v < L::all(E::kLeast) ? L::all(E::kLeast) : v;  // NaN stays
    const V shifted = v * L::all(E::kLog2e) + L::all(E::kRounder);
    const V exponent = shifted - L::all(E::kRounder);
    const V r = (v - exponent * L::all(E::kHigh)) - exponent * L::all(E::kLow);
    V series = L::all(inverse_factorial(E::kTerms));
    for (int k = E::kTerms - 1; k >= 1; --k) series = series * r + L::all(inverse_factorial(k));
    return {power_of_two(exponent, shifted), series * r};
  }

  static SCANLIB_INLINE V exp(V v) {
    const Exp e = exp_parts(v);
    return e.scale * e.rest + e.scale;
  }
  static SCANLIB_INLINE V expm1(V v) {
    const Exp e = exp_parts(v);
    return e.scale * e.rest + (e.scale - L::all(1));
  }
  // With full relative precision for negative v.
  static SCANLIB_INLINE V sigmoid(V v) {
    const V e = exp(with_sign(v, L::all(R(-0.0))));
    return (v < V{} ? e : L::all(1)) / (L::all(1) + e);
  }
  static SCANLIB_INLINE V tanh(V v) {
    const V m = expm1(L::all(2) * with_sign(v, L::all(-1)));
    return with_sign(m / (m + L::all(2)), v);
  }

 private:
  static constexpr R inverse_factorial(int k) {
    double f = 1;
    for (int i = 2; i <= k; ++i) f *= i;
    return R(1 / f);
  }
  // The size of `v` with the sign of `like`.
  static SCANLIB_INLINE V with_sign(V v, V like) {
    const V zero = L::all(R(-0.0));
    Bits sign, size, from;
    std::memcpy(&sign, &zero, sizeof sign);
    std::memcpy(&size, &v, sizeof size);
    std::memcpy(&from, &like, sizeof from);
    size = (size & ~sign) | (from & sign);
    std::memcpy(&v, &size, sizeof v);
    return v;
  }
  // 2^exponent, which is also in the last bits of `shifted`; 0 where it is too small.
  static SCANLIB_INLINE V power_of_two(V exponent, V shifted) {
#if defined(__AVX512F__)
    (void)shifted;
    if constexpr (sizeof(R) == 4)
      return V(_mm512_maskz_scalef_ps(__mmask16(-1), __m512(L::all(1)), __m512(exponent)));
    else
      return V(_mm512_maskz_scalef_pd(__mmask8(-1), __m512d(L::all(1)), __m512d(exponent)));
#else
    // As two factors, each of which is a normal number.
    (void)exponent;
    Bits bits, zero;
    const V rounder = L::all(E::kRounder);
    std::memcpy(&bits, &shifted, sizeof bits);
    std::memcpy(&zero, &rounder, sizeof zero);
    bits -= zero;
    const Bits half = bits >> 1;
    return normal_power(half) * normal_power(bits - half);
#endif
  }
  static SCANLIB_INLINE V normal_power(Bits exponent) {
    const Bits bits = (exponent + E::kBias) << E::kMantissa;
    V v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
  }
};

}  // namespace
}  // namespace scanlib
