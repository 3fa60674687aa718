// The inner loops, for the instruction set this file is compiled for (SCANLIB_ISA names it).
#include "kernels.h"

#include <cstring>
#include <type_traits>

#include "../cuda/elements.h"
#include "gate_kernels.h"
#include "loops.h"
#include "scanlib.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace scanlib {
namespace {

// ------------------------------------------------------------------------------------------------------------------- sums

template <class R>
SCANLIB_INLINE void add_to(double &sum, R value) {
  sum += double(value);
}
template <class R>
SCANLIB_INLINE void add_to(Complex<double> &sum, Complex<R> value) {
  sum.re += double(value.re);
  sum.im += double(value.im);
}

template <class T>
void sum_steps(int64_t steps, int64_t lanes, const T *values, int64_t step, typename SumOf<T>::type *sums) {
  for (int64_t k = 0; k < steps; ++k)
    for (int64_t i = 0; i < lanes; ++i) add_to(sums[i], values[k * step + i]);
}

template <class T>
typename SumOf<T>::type total(int64_t n, const T *values) {
  constexpr int kWays = 16;  // as many sums side by side, added up in order at the end
  typename SumOf<T>::type sums[kWays] = {}, all = {};
  int64_t i = 0;
  for (; i + kWays <= n; i += kWays)
    for (int j = 0; j < kWays; ++j) add_to(sums[j], values[i + j]);
  for (int j = 0; i < n; ++i, ++j) add_to(sums[j], values[i]);
  for (auto &sum : sums) add_to(all, sum);
  return all;
}

// ------------------------------------------------------------------------------------------------------------- conversion

#if defined(__F16C__)
// float16 to float32 and back in hardware, eight at a time; the rest by the loops below, to the same bits.
inline int64_t bulk(int64_t n, const Half *from, float *to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from + i))));
  return i;
}
inline int64_t bulk(int64_t n, const float *from, Half *to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  return i;
}
#endif
template <class S, class T>
inline int64_t bulk(int64_t, const S *, T *) {
  return 0;
}

// An element at any address.
template <class S>
inline S load_at(const char *at) {
  S value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

template <class T, class S>
void widen(int64_t n, const void *from, int64_t stride, T *to) {
  const char *const source = static_cast<const char *>(from);
  if (stride == int64_t(sizeof(S))) {
    for (int64_t i = bulk(n, static_cast<const S *>(from), to); i < n; ++i)
      convert(to[i], load_at<S>(source + i * int64_t(sizeof(S))));
  } else if (stride == 0) {
    T value;
    convert(value, load_at<S>(source));
    for (int64_t i = 0; i < n; ++i) to[i] = value;
  } else {
    for (int64_t i = 0; i < n; ++i) convert(to[i], load_at<S>(source + i * stride));
  }
}

template <class T, class S>
void narrow(int64_t n, const T *from, void *to, int64_t stride) {
  char *const target = static_cast<char *>(to);
  auto store = [&](int64_t i, int64_t step) SCANLIB_LAMBDA {
    S value;
    convert(value, from[i]);
    std::memcpy(target + i * step, &value, sizeof value);
  };
  if (stride == int64_t(sizeof(S))) {
    for (int64_t i = bulk(n, from, static_cast<S *>(to)); i < n; ++i) store(i, int64_t(sizeof(S)));
  } else {
    for (int64_t i = 0; i < n; ++i) store(i, stride);
  }
}

template <class T>
constexpr Conversions<T> conversions() {
  return {sum_steps<T>,
          total<T>,
          {nullptr, widen<T, Half>, widen<T, Brain>, widen<T, float>, widen<T, double>, widen<T, Complex<float>>,
           widen<T, Complex<double>>},
          {nullptr, narrow<T, Half>, narrow<T, Brain>, narrow<T, float>, narrow<T, double>, narrow<T, Complex<float>>,
           narrow<T, Complex<double>>}};
}

}  // namespace

#define SCANLIB_TEXT2(name) #name
#define SCANLIB_TEXT(name) SCANLIB_TEXT2(name)
const InstructionSet SCANLIB_ISA = {
    loops<Linear, float>(), loops<Linear, double>(), loops<Linear, Complex<float>>(), loops<Linear, Complex<double>>(),
    conversions<float>(),   conversions<double>(),   conversions<Complex<float>>(),   conversions<Complex<double>>(),
    gate_table<float>(),    gate_table<double>(),    SCANLIB_TEXT(SCANLIB_ISA)};

}  // namespace scanlib
