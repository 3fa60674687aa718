// A vector register of real lanes, on GCC's and Clang's vector extensions: one text for every instruction set.
//
// Everything is a multiply-add written as `a * b + c`, which the compiler contracts to one rounding wherever the instruction
// set has it (-ffp-contract=fast). Full and partial vectors go through the same arithmetic, so that a result never depends on
// where in a vector its lane lies.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#include "../cuda/product.h"
#include "kernels.h"

#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
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

template <int W, int K>
struct ShiftPick {  // a, K lanes up, after the first K of b
  static constexpr int at(int i) { return i >= K ? i - K : W + i; }
};
template <int W>
struct ReversePick {
  static constexpr int at(int i) { return W - 1 - i; }
};
template <int W, bool Odd>
struct HalfPick {  // every other lane of a and b
  static constexpr int at(int i) { return 2 * i + (Odd ? 1 : 0); }
};
template <int W, bool High>
struct ZipPick {  // a and b lane by lane
  static constexpr int at(int i) { return (High ? W / 2 : 0) + i / 2 + (i % 2 ? W : 0); }
};

template <int W, int Size, bool High>
struct SwapPick {  // of each pair of groups of Size lanes, the low (high) one of a, then that of b
  static constexpr int at(int i) {
    const int within = i % Size, pair = i / (2 * Size) * 2 * Size;
    return pair + (High ? Size : 0) + within + (i / Size % 2 ? W : 0);
  }
};
template <int W, int Size, int Part, bool High>
struct PartZipPick {  // a and b group by group of Size lanes, from the low (high) half of each part of Part lanes
  static constexpr int at(int i) {
    const int part = i / Part * Part, group = i % Part / Size;
    return part + (High ? Part / 2 : 0) + group / 2 * Size + i % Size + (group % 2 ? W : 0);
  }
};

template <int Lane>
struct LanePick {  // one lane of a, everywhere
  static constexpr int at(int) { return Lane; }
};

template <int N>
struct Bytes;  // a vector of them
template <>
struct Bytes<2> {
  typedef signed char type __attribute__((vector_size(2)));
};
template <>
struct Bytes<4> {
  typedef signed char type __attribute__((vector_size(4)));
};
template <>
struct Bytes<8> {
  typedef signed char type __attribute__((vector_size(8)));
};
template <>
struct Bytes<16> {
  typedef signed char type __attribute__((vector_size(16)));
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
  static SCANLIB_INLINE Vec number(double value) { return all(Elem(value)); }
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
  static SCANLIB_INLINE Product<RealLanes> exact_product(Vec a, Vec b) {
    const Vec product = a * b;
    return {product, product_error(a, b, product)};
  }
  // a * b - product, exact where `product` is a * b rounded.
  static SCANLIB_INLINE Vec product_error(Vec a, Vec b, Vec product) {
#if defined(__AVX512F__)
    if constexpr (sizeof(R) == 4)
      return Vec(_mm512_fmsub_ps(__m512(a), __m512(b), __m512(product)));
    else
      return Vec(_mm512_fmsub_pd(__m512d(a), __m512d(b), __m512d(product)));
#elif defined(__FMA__)
    if constexpr (sizeof(R) == 4)
      return Vec(_mm256_fmsub_ps(__m256(a), __m256(b), __m256(product)));
    else
      return Vec(_mm256_fmsub_pd(__m256d(a), __m256d(b), __m256d(product)));
#elif defined(__aarch64__)
    if constexpr (sizeof(R) == 4)
      return Vec(vfmaq_f32(float32x4_t(-product), float32x4_t(a), float32x4_t(b)));
    else
      return Vec(vfmaq_f64(float64x2_t(-product), float64x2_t(a), float64x2_t(b)));
#else
    // Dekker's: products of halves of the digits are exact.
    const Vec a1 = leading_digits(a), a2 = a - a1, b1 = leading_digits(b), b2 = b - b1;
    return a2 * b2 - (((product - a1 * b1) - a2 * b1) - a1 * b2);
#endif
  }
  static SCANLIB_INLINE Vec conj(Vec a) { return a; }
  static SCANLIB_INLINE Elem lane(Vec v, int i) { return v[i]; }
  template <class Pick>
  static SCANLIB_INLINE Vec pick(Vec a, Vec b) {
    return shuffle<Pick, W>(a, b);
  }
  // `v` with the last half of its digits zero, and one more.
  static SCANLIB_INLINE Vec leading_digits(Vec v) {
    using Bits = std::conditional_t<sizeof(R) == 4, int32_t, int64_t>;
    typedef Bits Words __attribute__((vector_size(kVectorBytes)));
    Words words;
    std::memcpy(&words, &v, sizeof words);
    words &= sizeof(R) == 4 ? Bits(~int64_t(0xfff)) : Bits(~int64_t(0x7ffffff));
    std::memcpy(&v, &words, sizeof v);
    return v;
  }
  // v[i][j] becomes v[j][i]: first inside parts of 16 bytes, then whole groups of lanes change places.
  static SCANLIB_INLINE void transpose(Vec (&v)[W]) {
    constexpr int kPart = 16 / int(sizeof(R));
#pragma GCC unroll 16
    for (int i = 0; i < W; i += kPart) {
      if constexpr (kPart == 2) {
        zip_parts<1>(v[i], v[i + 1]);
      } else {
        zip_parts<1>(v[i], v[i + 1]);
        zip_parts<1>(v[i + 2], v[i + 3]);
        zip_parts<2>(v[i], v[i + 2]);
        zip_parts<2>(v[i + 1], v[i + 3]);
        std::swap(v[i + 1], v[i + 2]);
      }
    }
    swap_groups<kPart>(v);
  }
  // `yes` in the lanes whose byte is not 0, of n that there are.
  static SCANLIB_INLINE Vec chosen(const char *where, int64_t n, Vec yes, Vec no) {
    using Word = std::conditional_t<sizeof(R) == 4, int32_t, int64_t>;
    typedef Word Words __attribute__((vector_size(kVectorBytes)));
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    // Straight from bytes to bits: widened first, they would take the unit that transposes.
    if (n == W) {
      if constexpr (sizeof(R) == 4) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(where));
        return Vec(_mm512_mask_blend_ps(_mm_test_epi8_mask(bytes, bytes), __m512(no), __m512(yes)));
      } else {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(where));
        return Vec(_mm512_mask_blend_pd(__mmask8(_mm_test_epi8_mask(bytes, bytes)), __m512d(no), __m512d(yes)));
      }
    }
#elif defined(__AVX2__)
    // Most masks say yes of a few steps in a hundred.
    if (n == W) {
      Word some[2] = {};
      std::memcpy(some, where, W);
      if constexpr (sizeof(R) == 4) {
        if (__builtin_expect((some[0] | some[1]) == 0, 1)) return no;
        const __m256i words = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(where)));
        return Vec(_mm256_blendv_ps(__m256(yes), __m256(no), __m256(_mm256_cmpeq_epi32(words, __m256i{}))));
      } else {
        if (__builtin_expect(some[0] == 0, 1)) return no;
        const __m256i words = _mm256_cvtepi8_epi64(_mm_cvtsi64_si128(some[0]));
        return Vec(_mm256_blendv_pd(__m256d(yes), __m256d(no), __m256d(_mm256_cmpeq_epi64(words, __m256i{}))));
      }
    }
#endif
    typename Bytes<W>::type bytes{};
    if (n == W)
      std::memcpy(&bytes, where, W);
    else
      for (int64_t i = 0; i < n; ++i) bytes[i] = where[i];
    return __builtin_convertvector(bytes, Words) != 0 ? yes : no;
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

  static SCANLIB_INLINE Elem mul_add1(Elem a, Elem b, Elem c) { return a * b + c; }
  static SCANLIB_INLINE Elem mul1(Elem a, Elem b) { return a * b; }
  static SCANLIB_INLINE Elem conj1(Elem a) { return a; }

 private:
  template <int Size>
  static SCANLIB_INLINE void zip_parts(Vec &a, Vec &b) {
    constexpr int kPart = 16 / int(sizeof(R));
    const Vec low = pick<PartZipPick<W, Size, kPart, false>>(a, b);
    b = pick<PartZipPick<W, Size, kPart, true>>(a, b);
    a = low;
  }
  template <int Size>
  static SCANLIB_INLINE void swap_groups(Vec (&v)[W]) {
    if constexpr (Size < W) {
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i)
        if ((i & Size) == 0) {
          const Vec low = pick<SwapPick<W, Size, false>>(v[i], v[i + Size]);
          v[i + Size] = pick<SwapPick<W, Size, true>>(v[i], v[i + Size]);
          v[i] = low;
        }
      swap_groups<2 * Size>(v);
    }
  }
};

}  // namespace
}  // namespace scanlib
