// The inner loops over rows: one recurrence whose steps lie side by side in memory.
//
// A block of W vectors of W steps is transposed in registers, so that each lane has W steps of its own to walk. Lanes first
// reduce theirs to what they do to any state, log2(W) rounds of shifted joins (Hillis and Steele 1986) turn that into what all
// lanes so far do, the carry is brought in, and each lane walks its steps again from its true state, as a serial loop would.
// A carry is so rounded once a block, and products, being kept in two parts (cuda/factor.h), lose nothing that adds up.
// Fewer steps than a block are scanned a vector at a time, a lane a step.
//
// Where a product overflows, this can make NaN out of Inf * 0 where a serial loop has none, so after some blocks any value
// that is not finite sends them through the serial loop again, from the carry they started with.
#pragma once
#include "columns.h"

namespace scanlib {
namespace {

// What a stretch of steps does to the state before it: state -> factor * state + a state of its own.
template <class L>
struct Summary {
  Factor<L> factor;
  typename L::Vec state;
};
// The same of single steps, whose factors are exact.
template <class L>
struct Steps {
  typename L::Vec a, x;
};

// `first` and then `second`.
template <class L>
SCANLIB_INLINE Summary<L> joined(const Steps<L> &first, const Steps<L> &second) {
  return {after<L>(second.a, first.a), L::mul_add(second.a, first.x, second.x)};
}
template <class L>
SCANLIB_INLINE Summary<L> joined(const Summary<L> &first, const Steps<L> &second) {
  return {after<L>(second.a, first.factor), L::mul_add(second.a, first.state, second.x)};
}
template <class L>
SCANLIB_INLINE Summary<L> joined(const Summary<L> &first, const Summary<L> &second) {
  return {after<L>(second.factor, first.factor), applied<L>(second.factor, first.state, second.state)};
}

template <class L, class Pick>
SCANLIB_INLINE Steps<L> picked(const Steps<L> &one, const Steps<L> &other) {
  return {L::template pick<Pick>(one.a, other.a), L::template pick<Pick>(one.x, other.x)};
}
template <class L, class Pick>
SCANLIB_INLINE Summary<L> picked(const Summary<L> &one, const Summary<L> &other) {
  return {{L::template pick<Pick>(one.factor.high, other.factor.high),
           L::template pick<Pick>(one.factor.low, other.factor.low)},
          L::template pick<Pick>(one.state, other.state)};
}

template <class L>
SCANLIB_INLINE Steps<L> nothing(const Steps<L> &) {
  return {L::all(L::one()), L::all(L::zero())};
}
template <class L>
SCANLIB_INLINE Summary<L> nothing(const Summary<L> &) {
  return {{L::all(L::one()), L::all(L::zero())}, L::all(L::zero())};
}

// Each lane joined with all before it, in the order of the steps.
template <class L, bool Down, int K = 1, class V>
SCANLIB_INLINE Summary<L> scan_lanes(const V &v) {
  using Pick = ShiftPick<L::W, K, Down>;
  const Summary<L> both = joined<L>(picked<L, Pick>(v, nothing<L>(v)), v);
  if constexpr (2 * K < L::W)
    return scan_lanes<L, Down, 2 * K>(both);
  else
    return both;
}

template <class L, bool Conj>
SCANLIB_INLINE typename L::Vec coefficient(typename L::Vec a) {
  return Conj ? L::conj(a) : a;
}

template <class L>
SCANLIB_INLINE typename L::Vec load_row(const typename L::Elem *p, int64_t n, typename L::Elem fill) {
  return n == L::W ? L::load(p) : L::load_part(p, n, fill);
}

// `n` steps, padded with steps that change nothing.
template <class L, bool Conj>
SCANLIB_INLINE Steps<L> load_steps(const typename L::Elem *a, const typename L::Elem *x, int64_t n) {
  return {coefficient<L, Conj>(load_row<L>(a, n, L::one())), load_row<L>(x, n, L::zero())};
}

// A block: each lane has N * W steps of its own, in N tiles of W. Tiles are worked on side by side, because one alone is a long
// chain of operations that wait for each other.
template <class L, bool Down, bool Conj, int N>
struct Block {
  static constexpr int W = L::W;
  using Vec = typename L::Vec;
  Vec a[N][W], x[N][W];  // [tile][step][lane], tiles in the order of the steps; x becomes the states

  // Where vector i of a tile lies in memory, after the lowest address of the block.
  static constexpr int64_t offset(int tile, int i) { return (int64_t(i) * N + (Down ? N - 1 - tile : tile)) * W; }
  static constexpr int step(int k) { return Down ? W - 1 - k : k; }

  SCANLIB_INLINE void load(const typename L::Elem *from_a, const typename L::Elem *from_x) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        a[n][i] = coefficient<L, Conj>(L::load(from_a + offset(n, i)));
        x[n][i] = L::load(from_x + offset(n, i));
      }
      L::transpose(a[n]);
      L::transpose(x[n]);
    }
  }
  // What each tile's steps do to any state, in each lane.
  SCANLIB_INLINE void reduce(Summary<L> (&tile)[N]) const {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) tile[n] = joined<L>(steps(n, 0), steps(n, 1));
#pragma GCC unroll 16
    for (int k = 2; k < W; ++k)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) tile[n] = joined<L>(tile[n], steps(n, k));
  }
  // Walks all steps from the states before each tile.
  SCANLIB_INLINE void walk(Vec (&state)[N]) {
#pragma GCC unroll 16
    for (int k = 0; k < W; ++k)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) x[n][step(k)] = state[n] = L::mul_add(a[n][step(k)], state[n], x[n][step(k)]);
  }

 private:
  SCANLIB_INLINE Steps<L> steps(int n, int k) const { return {a[n][step(k)], x[n][step(k)]}; }
};

// One row on its walk: where it stands, and what it may have met.
template <class L, bool Down, bool Conj>
struct RowWalk {
  using Vec = typename L::Vec;
  using Elem = typename L::Elem;
  using Last = LanePick<Down ? 0 : L::W - 1>;
  const Elem *a, *x;
  Vec carry;  // what enters the next step: in every lane
  Vec last;   // the same as it was stored, which may differ in its last bit
  Vec taint;

  // The steps whose lowest address is `at`; put(i, n, states) stores n states at offset i.
  template <int N, class Put>
  SCANLIB_INLINE void block(int64_t at, Put put) {
    Block<L, Down, Conj, N> b;
    Summary<L> tile[N];
    b.load(a + at, x + at);
    b.reduce(tile);
    Summary<L> lanes = tile[0];
#pragma GCC unroll 4
    for (int n = 1; n < N; ++n) lanes = joined<L>(lanes, tile[n]);
    lanes = scan_lanes<L, Down>(lanes);
    const Vec ends = applied<L>(lanes.factor, carry, lanes.state);
    Vec state[N] = {L::template pick<ShiftPick<L::W, 1, Down>>(ends, carry)};
#pragma GCC unroll 4
    for (int n = 1; n < N; ++n) state[n] = applied<L>(tile[n - 1].factor, state[n - 1], tile[n - 1].state);
    carry = L::template pick<Last>(ends, ends);
    b.walk(state);
    // A state that is not finite is followed by no other kind, so the last of each tile tell; and what others begin with.
    taint = L::taint(carry, taint);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) taint = L::taint(state[n], taint);
    last = L::template pick<Last>(state[N - 1], state[N - 1]);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      L::transpose(b.x[n]);
#pragma GCC unroll 16
      for (int i = 0; i < L::W; ++i) put(at + b.offset(n, i), L::W, b.x[n][i]);
    }
  }
  template <class Put>
  SCANLIB_INLINE void vector(int64_t at, int64_t n, Put put) {
    const Summary<L> lanes = scan_lanes<L, Down>(load_steps<L, Conj>(a + at, x + at, n));
    const Vec states = applied<L>(lanes.factor, carry, lanes.state);
    put(at, n, states);
    taint = L::taint(states, taint);
    // Lanes of padding repeat the last state, but by another order of combining: take it from its own lane.
    last = carry = Down || n == L::W ? L::template pick<Last>(states, states) : L::all(L::lane(states, int(n) - 1));
  }
};

// Tiles of a block, where there are enough steps.
template <class L>
constexpr int kTiles = L::W < 8 ? 4 : 2;

// Scans `steps` steps of a and x: put(i, n, states) stores from memory offset i on; serial(i, carry) does one step and stores it.
template <class L, bool Down, bool Conj, class Put, class Serial>
SCANLIB_INLINE void walk_row(int64_t steps, const typename L::Elem *a, const typename L::Elem *x,
                             typename L::Elem *state, Put put, Serial serial) {
  constexpr int64_t kBlock = L::W * L::W, kStretch = kTiles<L> * kBlock;
  const auto start = L::all(*state);
  RowWalk<L, Down, Conj> walk{a, x, start, start, {}};
  for (int64_t done = 0; done < steps;) {
    const int64_t stretch = steps - done < kStretch ? steps - done : kStretch;
    const auto before = walk.carry;
    walk.taint = L::all(L::zero());
    int64_t k = 0;
    auto at = [&](int64_t n) { return Down ? steps - done - k - n : done + k; };
    if (stretch == kStretch) {
      walk.template block<kTiles<L>>(at(kStretch), put);
    } else {
      for (; k + kBlock <= stretch; k += kBlock) walk.template block<1>(at(kBlock), put);
      for (; k + L::W <= stretch; k += L::W) walk.vector(at(L::W), L::W, put);
      if (k < stretch) walk.vector(at(stretch - k), stretch - k, put);
    }
    if (__builtin_expect(L::tainted(walk.taint), 0)) {
      auto value = L::lane(before, 0);
      for (k = 0; k < stretch; ++k) value = serial(at(1), value);
      walk.last = walk.carry = L::all(value);
    }
    done += stretch;
  }
  *state = L::lane(walk.last, 0);
}

// Scans rows side by side, each in a lane of its own: there is nothing to join, and every state is a serial loop's. Row r of an
// operand lies r times its stride behind the first. put(r, i, n, states) and serial(r, i, carry) as above, of row r.
template <class L, bool Down, bool Conj, class Put, class Serial>
SCANLIB_INLINE void walk_together(int64_t steps, int64_t rows, const typename L::Elem *a, int64_t a_row,
                                  const typename L::Elem *x, int64_t x_row, typename L::Elem *state, Put put,
                                  Serial serial) {
  constexpr int W = L::W;
  for (int64_t first = 0; first < rows; first += W) {
    const int64_t left = rows - first < W ? rows - first : W;
    auto row = [&](int lane) SCANLIB_LAMBDA { return first + (lane < left ? lane : left - 1); };  // the last, once more
    typename L::Elem own[W];
    for (int i = 0; i < W; ++i) own[i] = state[row(i)];
    auto s = L::load(own);
    int64_t k = 0;
    for (; k + W <= steps; k += W) {
      const int64_t at = Down ? steps - k - W : k;
      typename L::Vec of_a[W], of_x[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        of_a[i] = coefficient<L, Conj>(L::load(a + row(i) * a_row + at));
        of_x[i] = L::load(x + row(i) * x_row + at);
      }
      L::transpose(of_a);
      L::transpose(of_x);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        const int step = Down ? W - 1 - i : i;
        of_x[step] = s = L::mul_add(of_a[step], s, of_x[step]);
      }
      L::transpose(of_x);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) put(row(i), at, W, of_x[i]);
    }
    store_n<L>(state + first, s, left);
    for (; k < steps; ++k)
      for (int64_t r = first; r < first + left; ++r) state[r] = serial(r, Down ? steps - 1 - k : k, state[r]);
  }
}

template <class T, bool Down>
void scan_rows(int64_t steps, int64_t rows, const T *a, int64_t a_row, const T *x, int64_t x_row, T *h, int64_t h_row,
               T *state) {
  using L = typename LanesOf<T>::type;
  auto put = [=](int64_t r, int64_t i, int64_t n, typename L::Vec s)
                 SCANLIB_LAMBDA { store_n<L>(h + r * h_row + i, s, n); };
  auto serial = [=](int64_t r, int64_t i, T carry) SCANLIB_LAMBDA {
    return h[r * h_row + i] = L::mul_add1(a[r * a_row + i], carry, x[r * x_row + i]);
  };
  if (rows > kAlone) return walk_together<L, Down, false>(steps, rows, a, a_row, x, x_row, state, put, serial);
  walk_row<L, Down, false>(
      steps, a, x, state, [=](int64_t i, int64_t n, typename L::Vec s) SCANLIB_LAMBDA { put(0, i, n, s); },
      [=](int64_t i, T carry) { return serial(0, i, carry); });
}

template <class T>
void rows_forward(int64_t steps, int64_t rows, const T *a, int64_t a_row, const T *x, int64_t x_row, T *h,
                  int64_t h_row, T *state, bool down) {
  (down ? scan_rows<T, true> : scan_rows<T, false>)(steps, rows, a, a_row, x, x_row, h, h_row, state);
}

template <class T, bool Down, bool Conj>
void reverse_rows(int64_t steps, int64_t rows, const T *a, int64_t a_row, const T *g, int64_t g_row, const T *h,
                  int64_t h_row, T *grad_x, int64_t grad_x_row, T *grad_a, int64_t grad_a_row, T *state) {
  using L = typename LanesOf<T>::type;
  auto put = [=](int64_t r, int64_t i, int64_t n, typename L::Vec s) SCANLIB_LAMBDA {
    store_n<L>(grad_x + r * grad_x_row + i, s, n);
    store_n<L>(grad_a + r * grad_a_row + i, L::mul(s, coefficient<L, Conj>(load_n<L>(h + r * h_row + i, n))), n);
  };
  auto serial = [=](int64_t r, int64_t i, T carry) SCANLIB_LAMBDA {
    auto conj1 = [](T v) { return Conj ? L::conj1(v) : v; };
    carry = grad_x[r * grad_x_row + i] = L::mul_add1(conj1(a[r * a_row + i]), carry, g[r * g_row + i]);
    grad_a[r * grad_a_row + i] = L::mul1(carry, conj1(h[r * h_row + i]));
    return carry;
  };
  if (rows > kAlone) return walk_together<L, Down, Conj>(steps, rows, a, a_row, g, g_row, state, put, serial);
  walk_row<L, Down, Conj>(
      steps, a, g, state, [=](int64_t i, int64_t n, typename L::Vec s) SCANLIB_LAMBDA { put(0, i, n, s); },
      [=](int64_t i, T carry) { return serial(0, i, carry); });
}

template <class T>
void rows_backward(int64_t steps, int64_t rows, const T *a, int64_t a_row, const T *g, int64_t g_row, const T *h,
                   int64_t h_row, T *grad_x, int64_t grad_x_row, T *grad_a, int64_t grad_a_row, T *state, bool down,
                   bool conjugate) {
  auto *run = down ? (conjugate ? reverse_rows<T, true, true> : reverse_rows<T, true, false>)
                   : (conjugate ? reverse_rows<T, false, true> : reverse_rows<T, false, false>);
  run(steps, rows, a, a_row, g, g_row, h, h_row, grad_x, grad_x_row, grad_a, grad_a_row, state);
}

// Lane i of the result spans 2^Levels consecutive steps, from memory offset i: neighbours are joined pair by pair.
template <class L, bool Down, int Levels, class Load>
SCANLIB_INLINE auto combined(int64_t at, Load load) {
  if constexpr (Levels == 0) {
    return load(at, L::W);
  } else {
    const int64_t half = int64_t(L::W) << (Levels - 1);
    const int64_t first = Down ? at + half : at, second = Down ? at : at + half;
    const auto one = combined<L, Down, Levels - 1>(first, load), other = combined<L, Down, Levels - 1>(second, load);
    const auto &low = Down ? other : one, &high = Down ? one : other;
    const auto even = picked<L, HalfPick<L::W, false>>(low, high), odd = picked<L, HalfPick<L::W, true>>(low, high);
    return Down ? joined<L>(odd, even) : joined<L>(even, odd);
  }
}

template <class T, bool Down, bool Conj>
void summarize_row(int64_t steps, const T *a, const T *x, T *product, T *lost, T *state) {
  using L = typename LanesOf<T>::type;
  using Last = LanePick<Down ? 0 : L::W - 1>;
  constexpr int kLevels = 3;
  constexpr int64_t kBlock = int64_t(L::W) << kLevels;
  auto load = [=](int64_t i, int64_t n) SCANLIB_LAMBDA { return load_steps<L, Conj>(a + i, x + i, n); };
  Summary<L> all{{L::all(*product), L::all(*lost)}, L::all(*state)};  // the same in each lane
  auto pass = [&](const Summary<L> &lanes) SCANLIB_LAMBDA { all = joined<L>(all, picked<L, Last>(lanes, lanes)); };
  int64_t done = 0;
  for (; done + kBlock <= steps; done += kBlock)
    pass(scan_lanes<L, Down>(combined<L, Down, kLevels>(Down ? steps - done - kBlock : done, load)));
  for (; done < steps; done += L::W) {
    const int64_t n = steps - done < L::W ? steps - done : L::W;
    pass(scan_lanes<L, Down>(load(Down ? steps - done - n : done, n)));
  }
  *product = L::lane(all.factor.high, 0);
  *lost = L::lane(all.factor.low, 0);
  *state = L::lane(all.state, 0);
}

template <class T>
void rows_summary(int64_t steps, const T *a, const T *x, T *product, T *lost, T *state, bool down, bool conjugate) {
  if (down)
    (conjugate ? summarize_row<T, true, true> : summarize_row<T, true, false>)(steps, a, x, product, lost, state);
  else
    (conjugate ? summarize_row<T, false, true> : summarize_row<T, false, false>)(steps, a, x, product, lost, state);
}

}  // namespace
}  // namespace scanlib
