// The inner loops over rows: one recurrence whose steps lie side by side in memory.
//
// A block of W vectors of W steps is transposed in registers, so that each lane has W steps of its own to walk. Lanes first
// reduce theirs to what they do to any state, log2(W) rounds of shifted joins (Hillis and Steele 1986) turn that into what all
// lanes so far do, the carry is brought in, and each lane walks its steps again from its true state, as a serial loop would.
// A carry is so rounded once a block, and products, being kept in two parts (cuda/factor.h), lose nothing that adds up.
// Fewer steps than a block are scanned a vector at a time, a lane a step.
//
// Lanes are in the order of the steps: where that runs `down`, against the addresses, the highest address is in the first. Memory
// is read and written in that order too, or a processor would not see what comes next.
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

template <class L>
SCANLIB_INLINE Summary<L> one_step(typename L::Vec a, typename L::Vec x) {
  return {{a, L::all(L::zero())}, x};
}

// `first` and then a step; and then `second`.
template <class L>
SCANLIB_INLINE Summary<L> joined(const Summary<L> &first, typename L::Vec a, typename L::Vec x) {
  return {after<L>(a, first.factor), L::mul_add(a, first.state, x)};
}
template <class L>
SCANLIB_INLINE Summary<L> joined(const Summary<L> &first, const Summary<L> &second) {
  return {after<L>(second.factor, first.factor), applied<L>(second.factor, first.state, second.state)};
}

template <class L, class Pick>
SCANLIB_INLINE Summary<L> picked(const Summary<L> &one, const Summary<L> &other) {
  return {{L::template pick<Pick>(one.factor.high, other.factor.high),
           L::template pick<Pick>(one.factor.low, other.factor.low)},
          L::template pick<Pick>(one.state, other.state)};
}

// Each lane joined with all before it.
template <class L, int K = 1>
SCANLIB_INLINE Summary<L> scan_lanes(const Summary<L> &v) {
  const Summary<L> nothing = one_step<L>(L::all(L::one()), L::all(L::zero()));
  const Summary<L> both = joined<L>(picked<L, ShiftPick<L::W, K>>(v, nothing), v);
  if constexpr (2 * K < L::W)
    return scan_lanes<L, 2 * K>(both);
  else
    return both;
}

template <class L>
using Last = LanePick<L::W - 1>;

template <class L>
SCANLIB_INLINE typename L::Vec reversed_if(bool yes, typename L::Vec v) {
  return yes ? L::template pick<ReversePick<L::W>>(v, v) : v;
}

// ------------------------------------------------------------------------------------------------------------------ tiles

// W steps of W rows that lie `stride` apart, as W vectors of a step each, in the order of the steps. Rows that are not there
// repeat the last of `rows`.
template <class L>
void load_tile(const typename L::Elem *from, int64_t stride, int64_t rows, bool down, bool conjugate,
               typename L::Vec (&tile)[L::W]) {
  typename L::Vec v[L::W];
#pragma GCC unroll 16
  for (int i = 0; i < L::W; ++i) {
    v[i] = coefficient<L>(conjugate, L::load(from));
    from += i + 1 < rows ? stride : 0;
  }
  L::transpose(v);
#pragma GCC unroll 16
  for (int i = 0; i < L::W; ++i) tile[down ? L::W - 1 - i : i] = v[i];
}

// The other way: put(row, vector) for `rows` rows.
template <class L, class Put>
SCANLIB_INLINE void put_tile(const typename L::Vec (&tile)[L::W], int64_t rows, bool down, Put put) {
  typename L::Vec v[L::W];
#pragma GCC unroll 16
  for (int i = 0; i < L::W; ++i) v[i] = tile[down ? L::W - 1 - i : i];
  L::transpose(v);
#pragma GCC unroll 16
  for (int i = 0; i < L::W; ++i)
    if (i < rows) put(i, v[i]);
}

// N stretches of steps in each lane, W steps of each in a tile. They are worked on side by side, because one alone is a long
// chain of operations that wait for each other.
template <class L, int N>
struct Block {
  static constexpr int W = L::W;
  using Vec = typename L::Vec;
  using Elem = typename L::Elem;
  Vec a[N][W], x[N][W];  // [stretch][step][lane]; x becomes the states
  bool down;

  // Where stretch n of the first lane lies after the lowest address of the block, and how far from lane to lane.
  struct Rows {
    int64_t first, lane;
  };
  SCANLIB_INLINE Rows rows(int n) const {
    return down ? Rows{((W - 1) * N + (N - 1 - n)) * W, -N * W} : Rows{n * W, N * W};
  }
  SCANLIB_INLINE void load(const Elem *from_a, const Elem *from_x, bool conjugate) {
    for (int n = 0; n < N; ++n) {
      const Rows at = rows(n);
      load_tile<L>(from_a + at.first, at.lane, W, down, conjugate, a[n]);
      load_tile<L>(from_x + at.first, at.lane, W, down, false, x[n]);
    }
  }
  // What the steps of each stretch do to any state, in each lane.
  SCANLIB_INLINE void reduce(Summary<L> (&all)[N]) const {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) all[n] = one_step<L>(a[n][0], x[n][0]);
#pragma GCC unroll 16
    for (int k = 1; k < W; ++k)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) all[n] = joined<L>(all[n], a[n][k], x[n][k]);
  }
  // Walks the steps from the states before them.
  SCANLIB_INLINE void walk(Vec (&state)[N]) {
#pragma GCC unroll 16
    for (int k = 0; k < W; ++k)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) x[n][k] = state[n] = L::mul_add(a[n][k], state[n], x[n][k]);
  }
};

template <class L, int N>
SCANLIB_INLINE Summary<L> in_order(const Summary<L> (&stretch)[N]) {
  Summary<L> all = stretch[0];
#pragma GCC unroll 4
  for (int n = 1; n < N; ++n) all = joined<L>(all, stretch[n]);
  return all;
}

// Stretches of a block, where there are enough steps.
template <class L>
constexpr int kStretches = L::W < 8 ? 4 : 2;

// ------------------------------------------------------------------------------------------------------------------- walks

// One row on its walk: where it stands, and what it may have met.
template <class L>
struct RowWalk {
  using Vec = typename L::Vec;
  using Elem = typename L::Elem;
  const Elem *a, *x;
  bool down, conjugate;
  Vec carry;  // what enters the next step: in every lane
  Vec last;   // the same as it was stored, which may differ in its last bit
  Vec taint;

  // The steps whose lowest address is `at`; put(i, n, states) stores n states at offset i.
  template <int N, class Put>
  SCANLIB_INLINE void block(int64_t at, Put put) {
    Block<L, N> b;
    b.down = down;
    b.load(a + at, x + at, conjugate);
    Summary<L> stretch[N];
    b.reduce(stretch);
    const Summary<L> lanes = scan_lanes<L>(in_order<L>(stretch));
    const Vec ends = applied<L>(lanes.factor, carry, lanes.state);
    Vec state[N] = {L::template pick<ShiftPick<L::W, 1>>(ends, carry)};
#pragma GCC unroll 4
    for (int n = 1; n < N; ++n) state[n] = applied<L>(stretch[n - 1].factor, state[n - 1], stretch[n - 1].state);
    carry = L::template pick<Last<L>>(ends, ends);
    b.walk(state);
    // A state that is not finite is followed by no other kind, so the last of each stretch tell; and what others begin with.
    taint = L::taint(carry, taint);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) taint = L::taint(state[n], taint);
    last = L::template pick<Last<L>>(state[N - 1], state[N - 1]);
    for (int n = 0; n < N; ++n) {
      const auto rows = b.rows(n);
      put_tile<L>(b.x[n], L::W, down,
                  [=](int i, Vec v) SCANLIB_LAMBDA { put(at + rows.first + i * rows.lane, L::W, v); });
    }
  }
  // At most a vector of steps, padded with steps that change nothing.
  SCANLIB_INLINE Summary<L> loaded(int64_t at, int64_t n) const {
    const Vec of_a = n == L::W ? L::load(a + at) : L::load_part(a + at, n, L::one());
    return one_step<L>(reversed_if<L>(down, coefficient<L>(conjugate, of_a)),
                       reversed_if<L>(down, load_n<L>(x + at, n)));
  }
  template <class Put>
  SCANLIB_INLINE void vector(int64_t at, int64_t n, Put put) {
    const Summary<L> lanes = scan_lanes<L>(loaded(at, n));
    const Vec states = applied<L>(lanes.factor, carry, lanes.state);
    put(at, n, reversed_if<L>(down, states));
    taint = L::taint(states, taint);
    // Lanes of padding after the steps repeat the last state, but by another order of combining: take it from its own lane.
    last = carry = down || n == L::W ? L::template pick<Last<L>>(states, states) : L::all(L::lane(states, int(n) - 1));
  }
};

// Scans `steps` steps of a and x: put(i, n, states) stores from memory offset i on; serial(i, carry) does one step and stores it.
template <class L, class Put, class Serial>
SCANLIB_INLINE void walk_row(int64_t steps, const typename L::Elem *a, const typename L::Elem *x,
                             typename L::Elem *state, bool down, bool conjugate, Put put, Serial serial) {
  constexpr int64_t kBlock = L::W * L::W, kMost = kStretches<L> * kBlock;
  const auto start = L::all(*state);
  RowWalk<L> walk{a, x, down, conjugate, start, start, {}};
  for (int64_t done = 0; done < steps;) {
    const int64_t some = steps - done < kMost ? steps - done : kMost;
    const auto before = walk.carry;
    walk.taint = L::all(L::zero());
    int64_t k = 0;
    auto at = [&](int64_t n) { return down ? steps - done - k - n : done + k; };
    if (some == kMost) {
      walk.template block<kStretches<L>>(at(kMost), put);
    } else {
      for (; k + kBlock <= some; k += kBlock) walk.template block<1>(at(kBlock), put);
      for (int64_t n; k < some; k += n) {
        n = some - k < L::W ? some - k : L::W;
        walk.vector(at(n), n, put);
      }
    }
    if (__builtin_expect(L::tainted(walk.taint), 0)) {
      auto value = L::lane(before, 0);
      for (k = 0; k < some; ++k) value = serial(at(1), value);
      walk.last = walk.carry = L::all(value);
    }
    done += some;
  }
  *state = L::lane(walk.last, 0);
}

// Scans rows side by side, each in a lane of its own: there is nothing to join, and every state is a serial loop's. Row r of an
// operand lies r times its stride behind the first. put(r, i, n, states) and serial(r, i, carry) as above, of row r.
template <class L, class Put, class Serial>
SCANLIB_INLINE void walk_together(int64_t steps, int64_t rows, const typename L::Elem *a, int64_t a_row,
                                  const typename L::Elem *x, int64_t x_row, typename L::Elem *state, bool down,
                                  bool conjugate, Put put, Serial serial) {
  constexpr int W = L::W;
  Block<L, 1> b;
  b.down = down;
  for (int64_t first = 0; first < rows; first += W) {
    const int64_t left = rows - first < W ? rows - first : W;
    typename L::Vec s[1] = {load_n<L>(state + first, left)};
    int64_t k = 0;
    for (; k + W <= steps; k += W) {
      const int64_t at = down ? steps - k - W : k;
      load_tile<L>(a + first * a_row + at, a_row, left, down, conjugate, b.a[0]);
      load_tile<L>(x + first * x_row + at, x_row, left, down, false, b.x[0]);
      b.walk(s);
      put_tile<L>(b.x[0], left, down, [=](int i, typename L::Vec v) SCANLIB_LAMBDA { put(first + i, at, W, v); });
    }
    store_n<L>(state + first, s[0], left);
    for (; k < steps; ++k)
      for (int64_t r = first; r < first + left; ++r) state[r] = serial(r, down ? steps - 1 - k : k, state[r]);
  }
}

template <class T>
void rows_forward(int64_t steps, int64_t rows, const T *a, int64_t a_row, const T *x, int64_t x_row, T *h,
                  int64_t h_row, T *state, bool down) {
  using L = typename LanesOf<T>::type;
  auto put = [=](int64_t r, int64_t i, int64_t n, typename L::Vec s)
                 SCANLIB_LAMBDA { store_n<L>(h + r * h_row + i, s, n); };
  auto serial = [=](int64_t r, int64_t i, T carry) SCANLIB_LAMBDA {
    return h[r * h_row + i] = L::mul_add1(a[r * a_row + i], carry, x[r * x_row + i]);
  };
  if (rows > kAlone) return walk_together<L>(steps, rows, a, a_row, x, x_row, state, down, false, put, serial);
  walk_row<L>(
      steps, a, x, state, down, false, [=](int64_t i, int64_t n, typename L::Vec s) SCANLIB_LAMBDA { put(0, i, n, s); },
      [=](int64_t i, T carry) { return serial(0, i, carry); });
}

template <class T>
void rows_backward(int64_t steps, int64_t rows, const T *a, int64_t a_row, const T *g, int64_t g_row, const T *h,
                   int64_t h_row, T *grad_x, int64_t grad_x_row, T *grad_a, int64_t grad_a_row, T *state, bool down,
                   bool conjugate) {
  using L = typename LanesOf<T>::type;
  auto put = [=](int64_t r, int64_t i, int64_t n, typename L::Vec s) SCANLIB_LAMBDA {
    store_n<L>(grad_x + r * grad_x_row + i, s, n);
    store_n<L>(grad_a + r * grad_a_row + i, L::mul(s, coefficient<L>(conjugate, load_n<L>(h + r * h_row + i, n))), n);
  };
  auto serial = [=](int64_t r, int64_t i, T carry) SCANLIB_LAMBDA {
    auto conj1 = [=](T v) { return conjugate ? L::conj1(v) : v; };
    carry = grad_x[r * grad_x_row + i] = L::mul_add1(conj1(a[r * a_row + i]), carry, g[r * g_row + i]);
    grad_a[r * grad_a_row + i] = L::mul1(carry, conj1(h[r * h_row + i]));
    return carry;
  };
  if (rows > kAlone) return walk_together<L>(steps, rows, a, a_row, g, g_row, state, down, conjugate, put, serial);
  walk_row<L>(
      steps, a, g, state, down, conjugate,
      [=](int64_t i, int64_t n, typename L::Vec s) SCANLIB_LAMBDA { put(0, i, n, s); },
      [=](int64_t i, T carry) { return serial(0, i, carry); });
}

// --------------------------------------------------------------------------------------------------------------- summaries

template <class T>
void rows_summary(int64_t steps, const T *a, const T *x, T *product, T *lost, T *state, bool down, bool conjugate) {
  using L = typename LanesOf<T>::type;
  constexpr int N = kStretches<L>;
  constexpr int64_t kBlock = N * L::W * L::W;
  const RowWalk<L> row{a, x, down, conjugate, {}, {}, {}};
  Summary<L> all{{L::all(*product), L::all(*lost)}, L::all(*state)};  // the same in each lane
  int64_t done = 0;
  auto pass = [&](int64_t n, const Summary<L> &of_lanes) SCANLIB_LAMBDA {
    const Summary<L> lanes = scan_lanes<L>(of_lanes);
    all = joined<L>(all, picked<L, Last<L>>(lanes, lanes));
    done += n;
  };
  auto at = [&](int64_t n) { return down ? steps - done - n : done; };
  while (steps - done >= kBlock) {
    Block<L, N> b;
    b.down = down;
    b.load(a + at(kBlock), x + at(kBlock), conjugate);
    Summary<L> stretch[N];
    b.reduce(stretch);
    pass(kBlock, in_order<L>(stretch));
  }
  while (done < steps) {
    const int64_t n = steps - done < L::W ? steps - done : L::W;
    pass(n, row.loaded(at(n), n));
  }
  *product = L::lane(all.factor.high, 0);
  *lost = L::lane(all.factor.low, 0);
  *state = L::lane(all.state, 0);
}

}  // namespace
}  // namespace scanlib
