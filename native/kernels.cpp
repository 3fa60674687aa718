// The inner loops, for the instruction set this file is compiled for (SCANLIB_ISA names it).
#include "kernels.h"

#include <type_traits>

#include "../cuda/elements.h"
#include "columns.h"
#include "gate_kernels.h"
#include "scanlib.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace scanlib {
namespace {

// ---------------------------------------------------------------------------------------------------------------- columns

template <class L, bool Conj>
SCANLIB_INLINE typename L::Vec coefficient(typename L::Vec a) {
  return Conj ? L::conj(a) : a;
}

template <class T>
void columns_forward(int64_t steps, int64_t lanes, const T *a, int64_t a_step, const T *x, int64_t x_step, T *h,
                     int64_t h_step, T *state) {
  using L = typename LanesOf<T>::type;
  walk_columns<L>(steps, lanes, x_step < 0, state,
                  [=](int64_t k, int64_t lane, int64_t n, typename L::Vec s) SCANLIB_LAMBDA {
                    s = L::mul_add(load_n<L>(a + k * a_step + lane, n), s, load_n<L>(x + k * x_step + lane, n));
                    store_n<L>(h + k * h_step + lane, s, n);
                    return s;
                  });
}

template <class T, bool Conj>
void summarize_columns(int64_t steps, int64_t lanes, const T *a, int64_t a_step, const T *x, int64_t x_step, T *product,
                       T *state) {
  using L = typename LanesOf<T>::type;
  walk_columns<L>(steps, lanes, x_step < 0, state,
                  [=](int64_t k, int64_t lane, int64_t n, typename L::Vec s) SCANLIB_LAMBDA {
                    auto factor = coefficient<L, Conj>(load_n<L>(a + k * a_step + lane, n));
                    store_n<L>(product + lane, L::mul(factor, load_n<L>(product + lane, n)), n);
                    return L::mul_add(factor, s, load_n<L>(x + k * x_step + lane, n));
                  });
}

template <class T>
void columns_summary(int64_t steps, int64_t lanes, const T *a, int64_t a_step, const T *x, int64_t x_step, T *product,
                     T *state, bool conjugate) {
  (conjugate ? summarize_columns<T, true> : summarize_columns<T, false>)(steps, lanes, a, a_step, x, x_step, product,
                                                                         state);
}

template <class T, bool Conj>
void reverse_columns(int64_t steps, int64_t lanes, const T *a, int64_t a_step, const T *g, int64_t g_step, const T *h,
                     int64_t h_step, T *grad_x, int64_t grad_x_step, T *grad_a, int64_t grad_a_step, T *state) {
  using L = typename LanesOf<T>::type;
  walk_columns<L>(steps, lanes, g_step < 0, state,
                  [=](int64_t k, int64_t lane, int64_t n, typename L::Vec s) SCANLIB_LAMBDA {
                    auto factor = coefficient<L, Conj>(load_n<L>(a + k * a_step + lane, n));
                    s = L::mul_add(factor, s, load_n<L>(g + k * g_step + lane, n));
                    store_n<L>(grad_x + k * grad_x_step + lane, s, n);
                    auto before = coefficient<L, Conj>(load_n<L>(h + k * h_step + lane, n));
                    store_n<L>(grad_a + k * grad_a_step + lane, L::mul(s, before), n);
                    return s;
                  });
}

template <class T>
void columns_backward(int64_t steps, int64_t lanes, const T *a, int64_t a_step, const T *g, int64_t g_step, const T *h,
                      int64_t h_step, T *grad_x, int64_t grad_x_step, T *grad_a, int64_t grad_a_step, T *state,
                      bool conjugate) {
  (conjugate ? reverse_columns<T, true> : reverse_columns<T, false>)(steps, lanes, a, a_step, g, g_step, h, h_step,
                                                                     grad_x, grad_x_step, grad_a, grad_a_step, state);
}

// ------------------------------------------------------------------------------------------------------------------- rows
//
// A vector holds W consecutive steps. log2(W) rounds of shifted multiply-adds turn it into the prefixes of its lanes (Hillis
// and Steele 1986); one more multiply-add brings in the carry. (Combining pairs first, as Blelloch's scan does, needs half
// the shuffles but keeps so many vectors alive that it was slower: 0.36 against 0.33 ns an element with AVX-512, 0.52 against
// 0.33 with AVX2.)
//
// Where a product overflows, this can make NaN out of Inf * 0 where a serial loop has none, so after each block any value
// that is not finite sends the block through the serial loop again, from the carry it started with.

// What a stretch of steps does to the state before it: state -> product * state + state of its own.
template <class L>
struct Span {
  typename L::Vec product, state;
};

// `first` and then `second`.
template <class L>
SCANLIB_INLINE Span<L> joined(const Span<L> &first, const Span<L> &second) {
  return {L::mul(second.product, first.product), L::mul_add(second.product, first.state, second.state)};
}

// Prefixes of the lanes, in the order of the steps.
template <class L, bool Down, int K = 1>
SCANLIB_INLINE void scan_lanes(Span<L> &v) {
  if constexpr (K < L::W) {
    using Pick = ShiftPick<L::W, K, Down>;
    v = joined<L>(
        {L::template pick<Pick>(v.product, L::all(L::one())), L::template pick<Pick>(v.state, L::all(L::zero()))}, v);
    scan_lanes<L, Down, 2 * K>(v);
  }
}

constexpr int64_t kBlockVectors = 16;

// Scans `steps` steps: load(i, n) gives n lanes of (a, x) from memory offset i, padded with steps that change nothing; put(i,
// n, states) stores; serial(i, carry) does one step and stores it.
template <class L, bool Down, class Load, class Put, class Serial>
SCANLIB_INLINE void walk_row(int64_t steps, typename L::Elem *state, Load load, Put put, Serial serial) {
  using Elem = typename L::Elem;
  using Last = LanePick<Down ? 0 : L::W - 1>;
  constexpr int64_t kBlock = kBlockVectors * L::W;
  auto carry = L::all(*state);
  for (int64_t done = 0; done < steps;) {
    const int64_t block = steps - done < kBlock ? steps - done : kBlock;
    const Elem before = L::lane(carry, 0);
    auto taint = L::all(L::zero());
    auto vector = [&](int64_t k, int64_t n) SCANLIB_LAMBDA {
      int64_t at = Down ? steps - done - k - n : done + k;
      Span<L> v = load(at, n);
      scan_lanes<L, Down>(v);
      auto states = L::mul_add(v.product, carry, v.state);
      put(at, n, states);
      taint = L::taint(states, taint);
      // Lanes of padding repeat the last state, but by another order of combining: take it from its own lane.
      carry = Down || n == L::W ? L::template pick<Last>(states, states) : L::all(L::lane(states, int(n) - 1));
    };
    int64_t k = 0;
    for (; k + L::W <= block; k += L::W) vector(k, L::W);
    if (k < block) vector(k, block - k);
    if (__builtin_expect(L::tainted(taint), 0)) {
      Elem value = before;
      for (k = 0; k < block; ++k) value = serial(Down ? steps - done - 1 - k : done + k, value);
      carry = L::all(value);
    }
    done += block;
  }
  *state = L::lane(carry, 0);
}

template <class L>
SCANLIB_INLINE typename L::Vec load_row(const typename L::Elem *p, int64_t n, typename L::Elem fill) {
  return n == L::W ? L::load(p) : L::load_part(p, n, fill);
}

template <class L, bool Conj>
SCANLIB_INLINE Span<L> load_span(const typename L::Elem *a, const typename L::Elem *x, int64_t n) {
  return {coefficient<L, Conj>(load_row<L>(a, n, L::one())), load_row<L>(x, n, L::zero())};
}

template <class T, bool Down>
void scan_row(int64_t steps, const T *a, const T *x, T *h, T *state) {
  using L = typename LanesOf<T>::type;
  walk_row<L, Down>(
      steps, state, [=](int64_t i, int64_t n) SCANLIB_LAMBDA { return load_span<L, false>(a + i, x + i, n); },
      [=](int64_t i, int64_t n, typename L::Vec s) SCANLIB_LAMBDA { store_n<L>(h + i, s, n); },
      [=](int64_t i, T carry) { return h[i] = L::mul_add1(a[i], carry, x[i]); });
}

template <class T>
void rows_forward(int64_t steps, const T *a, const T *x, T *h, T *state, bool down) {
  (down ? scan_row<T, true> : scan_row<T, false>)(steps, a, x, h, state);
}

template <class T, bool Down, bool Conj>
void reverse_row(int64_t steps, const T *a, const T *g, const T *h, T *grad_x, T *grad_a, T *state) {
  using L = typename LanesOf<T>::type;
  auto conj1 = [](T v) { return Conj ? L::conj1(v) : v; };
  walk_row<L, Down>(
      steps, state, [=](int64_t i, int64_t n) SCANLIB_LAMBDA { return load_span<L, Conj>(a + i, g + i, n); },
      [=](int64_t i, int64_t n, typename L::Vec s) SCANLIB_LAMBDA {
        store_n<L>(grad_x + i, s, n);
        store_n<L>(grad_a + i, L::mul(s, coefficient<L, Conj>(load_n<L>(h + i, n))), n);
      },
      [=](int64_t i, T carry) {
        carry = grad_x[i] = L::mul_add1(conj1(a[i]), carry, g[i]);
        grad_a[i] = L::mul1(carry, conj1(h[i]));
        return carry;
      });
}

template <class T>
void rows_backward(int64_t steps, const T *a, const T *g, const T *h, T *grad_x, T *grad_a, T *state, bool down,
                   bool conjugate) {
  if (down)
    (conjugate ? reverse_row<T, true, true> : reverse_row<T, true, false>)(steps, a, g, h, grad_x, grad_a, state);
  else
    (conjugate ? reverse_row<T, false, true> : reverse_row<T, false, false>)(steps, a, g, h, grad_x, grad_a, state);
}

// Lane i of the result spans 2^Levels consecutive steps, from memory offset i: neighbours are combined pair by pair.
template <class L, bool Down, int Levels, class Load>
SCANLIB_INLINE Span<L> combined(int64_t at, Load load) {
  if constexpr (Levels == 0) {
    return load(at, L::W);
  } else {
    const int64_t half = int64_t(L::W) << (Levels - 1);
    Span<L> a, b;
    if constexpr (Down) {
      b = combined<L, Down, Levels - 1>(at + half, load);
      a = combined<L, Down, Levels - 1>(at, load);
    } else {
      a = combined<L, Down, Levels - 1>(at, load);
      b = combined<L, Down, Levels - 1>(at + half, load);
    }
    using Even = HalfPick<L::W, false>;
    using Odd = HalfPick<L::W, true>;
    Span<L> even{L::template pick<Even>(a.product, b.product), L::template pick<Even>(a.state, b.state)};
    Span<L> odd{L::template pick<Odd>(a.product, b.product), L::template pick<Odd>(a.state, b.state)};
    return Down ? joined<L>(odd, even) : joined<L>(even, odd);
  }
}

template <class T, bool Down, bool Conj>
void summarize_row(int64_t steps, const T *a, const T *x, T *product, T *state) {
  using L = typename LanesOf<T>::type;
  constexpr int kLevels = 3;
  constexpr int64_t kBlock = int64_t(L::W) << kLevels;
  constexpr int kLast = Down ? 0 : L::W - 1;
  auto load = [=](int64_t i, int64_t n) SCANLIB_LAMBDA { return load_span<L, Conj>(a + i, x + i, n); };
  T p = *product, s = *state;
  auto pass = [&](Span<L> v) SCANLIB_LAMBDA {
    scan_lanes<L, Down>(v);
    T factor = L::lane(v.product, kLast);
    s = L::mul_add1(factor, s, L::lane(v.state, kLast));
    p = L::mul1(factor, p);
  };
  int64_t done = 0;
  for (; done + kBlock <= steps; done += kBlock)
    pass(combined<L, Down, kLevels>(Down ? steps - done - kBlock : done, load));
  for (; done < steps; done += L::W) {
    int64_t n = steps - done < L::W ? steps - done : L::W;
    pass(load(Down ? steps - done - n : done, n));
  }
  *product = p;
  *state = s;
}

template <class T>
void rows_summary(int64_t steps, const T *a, const T *x, T *product, T *state, bool down, bool conjugate) {
  if (down)
    (conjugate ? summarize_row<T, true, true> : summarize_row<T, true, false>)(steps, a, x, product, state);
  else
    (conjugate ? summarize_row<T, false, true> : summarize_row<T, false, false>)(steps, a, x, product, state);
}

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

template <class T, class S>
void widen(int64_t n, const void *from, int64_t stride, T *to) {
  const S *source = static_cast<const S *>(from);
  if (stride == 1) {
    for (int64_t i = bulk(n, source, to); i < n; ++i) convert(to[i], source[i]);
  } else if (stride == 0) {
    T value;
    convert(value, *source);
    for (int64_t i = 0; i < n; ++i) to[i] = value;
  } else {
    for (int64_t i = 0; i < n; ++i) convert(to[i], source[i * stride]);
  }
}

template <class T, class S>
void narrow(int64_t n, const T *from, void *to, int64_t stride) {
  S *target = static_cast<S *>(to);
  if (stride == 1) {
    for (int64_t i = bulk(n, from, target); i < n; ++i) convert(target[i], from[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) convert(target[i * stride], from[i]);
  }
}

template <class T>
constexpr Kernels<T> table() {
  return {columns_forward<T>,
          columns_summary<T>,
          columns_backward<T>,
          rows_forward<T>,
          rows_summary<T>,
          rows_backward<T>,
          sum_steps<T>,
          total<T>,
          {nullptr, widen<T, Half>, widen<T, Brain>, widen<T, float>, widen<T, double>, widen<T, Complex<float>>,
           widen<T, Complex<double>>},
          {nullptr, narrow<T, Half>, narrow<T, Brain>, narrow<T, float>, narrow<T, double>, narrow<T, Complex<float>>,
           narrow<T, Complex<double>>}};
}

}  // namespace

#define SCANLIB_TEXT2(name) #name
#define SCANLIB_TEXT(name) SCANLIB_TEXT2(name)
const InstructionSet SCANLIB_ISA = {table<float>(),           table<double>(),     table<Complex<float>>(),
                                    table<Complex<double>>(), gate_table<float>(), gate_table<double>(),
                                    SCANLIB_TEXT(SCANLIB_ISA)};

}  // namespace scanlib
