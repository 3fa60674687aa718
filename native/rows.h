// The inner loops over rows: one recurrence whose steps lie side by side in memory.
//
// A block of W vectors of W steps is transposed in registers, so that each lane has W steps of its own to walk. Lanes first
// reduce theirs to what they do to any state, log2(W) rounds of shifted joins (Hillis and Steele 1986) turn that into what all
// lanes so far do, the carry is brought in, and each lane walks its steps again from its true state, as a serial loop would.
// A carry is so rounded once a block, and products, being kept in two parts (cuda/linear.h), lose nothing that adds up.
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
void load_tile(const typename L::Elem *from, int64_t stride, int64_t rows, bool down, typename L::Vec (&tile)[L::W]) {
  typename L::Vec v[L::W];
#pragma GCC unroll 16
  for (int i = 0; i < L::W; ++i) {
    v[i] = L::load(from);
    from += i + 1 < rows ? stride : 0;
  }
  L::transpose(v);
#pragma GCC unroll 16
  for (int i = 0; i < L::W; ++i) tile[down ? L::W - 1 - i : i] = v[i];
}
// The same of coefficients.
template <class Op>
SCANLIB_INLINE void load_tile_on_way(const ElementA<Op> *from, int64_t stride, int64_t rows, bool down, Way way,
                                     typename Op::Coefficient (&tile)[Op::CoefficientLanes::W]) {
  load_tile<typename Op::CoefficientLanes>(from, stride, rows, down, tile);
#pragma GCC unroll 16
  for (auto &step : tile) step = on_way<Op>(way, step);
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
template <class Op, int N>
struct Block {
  using S = typename Op::StateLanes;
  using State = typename Op::State;
  static constexpr int W = S::W;
  typename Op::Coefficient a[N][W];  // [stretch][step][lane]
  State x[N][W];                     // the same; becomes the states
  bool down;

  // Where stretch n of the first lane lies after the lowest address of the block, and how far from lane to lane.
  struct Rows {
    int64_t first, lane;
  };
  SCANLIB_INLINE Rows rows(int n) const {
    return down ? Rows{((W - 1) * N + (N - 1 - n)) * W, -N * W} : Rows{n * W, N * W};
  }
  SCANLIB_INLINE void load(const ElementA<Op> *from_a, const ElementS<Op> *from_x, Way way) {
    for (int n = 0; n < N; ++n) {
      const Rows at = rows(n);
      load_tile_on_way<Op>(from_a + at.first, at.lane, W, down, way, a[n]);
      load_tile<S>(from_x + at.first, at.lane, W, down, x[n]);
    }
  }
  // What the steps of each stretch do to any state, in each lane.
  SCANLIB_INLINE void reduce(Summary<Op> (&all)[N]) const {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) all[n] = one_step<Op>(a[n][0], x[n][0]);
#pragma GCC unroll 16
    for (int k = 1; k < W; ++k)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) all[n] = joined<Op>(all[n], a[n][k], x[n][k]);
  }
  // Walks the steps from the states before them.
  SCANLIB_INLINE void walk(State (&state)[N]) {
#pragma GCC unroll 16
    for (int k = 0; k < W; ++k)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) x[n][k] = state[n] = Op::step(a[n][k], state[n], x[n][k]);
  }
};

template <class Op, int N>
SCANLIB_INLINE Summary<Op> in_order(const Summary<Op> (&stretch)[N]) {
  Summary<Op> all = stretch[0];
#pragma GCC unroll 4
  for (int n = 1; n < N; ++n) all = joined<Op>(all, stretch[n]);
  return all;
}

// Stretches of a block, where there are enough steps. Vectors of 16 fill the registers with one, and with two every other line of
// memory is met first and those between them later, which halves the speed of what comes from memory.
constexpr int stretches(int width) { return width < 8 ? 4 : width < 16 ? 2 : 1; }
template <class Op>
constexpr int kStretches = stretches(Op::StateLanes::W);

// ------------------------------------------------------------------------------------------------------------------- walks

// At most a vector of steps of a row, padded with steps that change nothing.
template <class Op>
SCANLIB_INLINE Summary<Op> load_steps(const ElementA<Op> *a, const ElementS<Op> *x, int64_t n, bool down, Way way) {
  using A = typename Op::CoefficientLanes;
  using S = typename Op::StateLanes;
  using Idle = typename Op::template Over<Single<A>>;
  const auto of_a = n == A::W ? A::load(a) : A::load_part(a, n, Idle::idle());
  const auto of_x = n == S::W ? S::load(x) : S::load_part(x, n, Idle::idle_input());
  return one_step<Op>(reversed_if<A>(down, on_way<Op>(way, of_a)), reversed_if<S>(down, of_x));
}

// One row on its walk: where it stands, and what it may have met.
template <class Op>
struct RowWalk {
  using S = typename Op::StateLanes;
  using State = typename Op::State;
  static constexpr int W = S::W;
  const ElementA<Op> *a;
  const ElementS<Op> *x;
  bool down;
  Way way;
  State carry;  // what enters the next step: in every lane
  State last;   // the same as it was stored, which may differ in its last bit
  State taint;

  // The steps whose lowest address is `at`; put(i, n, states) stores n states at offset i.
  template <int N, class Put>
  SCANLIB_INLINE void block(int64_t at, Put put) {
    Block<Op, N> b;
    b.down = down;
    b.load(a + at, x + at, way);
    Summary<Op> stretch[N];
    b.reduce(stretch);
    const State ends = applied<Op>(scan_lanes<Op>(in_order<Op>(stretch)), carry);
    State state[N] = {S::template pick<ShiftPick<W, 1>>(ends, carry)};
#pragma GCC unroll 4
    for (int n = 1; n < N; ++n) state[n] = applied<Op>(stretch[n - 1], state[n - 1]);
    carry = S::template pick<Last<S>>(ends, ends);
    b.walk(state);
    // A state that is not finite is followed by no other kind, so the last of each stretch tell; and what others begin with.
    meet(carry);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) meet(state[n]);
    last = S::template pick<Last<S>>(state[N - 1], state[N - 1]);
    for (int n = 0; n < N; ++n) {
      const auto rows = b.rows(n);
      put_tile<S>(b.x[n], W, down, [=](int i, State v) SCANLIB_LAMBDA { put(at + rows.first + i * rows.lane, W, v); });
    }
  }
  // At most a vector of steps.
  template <class Put>
  SCANLIB_INLINE void vector(int64_t at, int64_t n, Put put) {
    const State states = applied<Op>(scan_lanes<Op>(load_steps<Op>(a + at, x + at, n, down, way)), carry);
    put(at, n, reversed_if<S>(down, states));
    meet(states);
    // Lanes of padding after the steps repeat the last state, but by another order of combining: take it from its own lane.
    last = carry = down || n == W ? S::template pick<Last<S>>(states, states) : S::all(S::lane(states, int(n) - 1));
  }

 private:
  SCANLIB_INLINE void meet(State states) {
    if constexpr (Op::kChecked) taint = S::taint(states, taint);
  }
};

// Scans `steps` steps of a and x: put(i, n, states) stores from memory offset i on; serial(i, carry) does one step and stores it.
template <class Op, class Put, class Serial>
SCANLIB_INLINE void walk_row(int64_t steps, const ElementA<Op> *a, const ElementS<Op> *x, ElementS<Op> *state,
                             bool down, Way way, Put put, Serial serial) {
  using S = typename Op::StateLanes;
  constexpr int64_t kBlock = S::W * S::W, kMost = kStretches<Op> * kBlock;
  const auto start = S::all(*state);
  RowWalk<Op> walk{a, x, down, way, start, start, {}};
  for (int64_t done = 0; done < steps;) {
    const int64_t some = steps - done < kMost ? steps - done : kMost;
    const auto before = walk.carry;
    walk.taint = S::number(0);
    int64_t k = 0;
    auto at = [&](int64_t n) { return down ? steps - done - k - n : done + k; };
    if (some == kMost) {
      walk.template block<kStretches<Op>>(at(kMost), put);
    } else {
      for (; k + kBlock <= some; k += kBlock) walk.template block<1>(at(kBlock), put);
      for (int64_t n; k < some; k += n) {
        n = some - k < S::W ? some - k : S::W;
        walk.vector(at(n), n, put);
      }
    }
    if (Op::kChecked && __builtin_expect(S::tainted(walk.taint), 0)) {
      auto value = S::lane(before, 0);
      for (k = 0; k < some; ++k) value = serial(at(1), value);
      walk.last = walk.carry = S::all(value);
    }
    done += some;
  }
  *state = S::lane(walk.last, 0);
}

// Scans rows side by side, each in a lane of its own: there is nothing to join, and every state is a serial loop's. Row r of an
// operand lies r times its stride behind the first. put(r, i, n, states) and serial(r, i, carry) as above, of row r.
template <class Op, class Put, class Serial>
SCANLIB_INLINE void walk_together(int64_t steps, int64_t rows, const ElementA<Op> *a, int64_t a_row,
                                  const ElementS<Op> *x, int64_t x_row, ElementS<Op> *state, bool down, Way way,
                                  Put put, Serial serial) {
  using S = typename Op::StateLanes;
  constexpr int W = S::W;
  Block<Op, 1> b;
  b.down = down;
  for (int64_t first = 0; first < rows; first += W) {
    const int64_t left = rows - first < W ? rows - first : W;
    typename Op::State s[1] = {load_n<S>(state + first, left)};
    int64_t k = 0;
    for (; k + W <= steps; k += W) {
      const int64_t at = down ? steps - k - W : k;
      load_tile_on_way<Op>(a + first * a_row + at, a_row, left, down, way, b.a[0]);
      load_tile<S>(x + first * x_row + at, x_row, left, down, b.x[0]);
      b.walk(s);
      put_tile<S>(b.x[0], left, down, [=](int i, typename Op::State v) SCANLIB_LAMBDA { put(first + i, at, W, v); });
    }
    store_n<S>(state + first, s[0], left);
    for (; k < steps; ++k)
      for (int64_t r = first; r < first + left; ++r) state[r] = serial(r, down ? steps - 1 - k : k, state[r]);
  }
}

// One row, or several.
template <class Op, class Put, class Serial>
SCANLIB_INLINE void walk_rows(int64_t steps, int64_t rows, const ElementA<Op> *a, int64_t a_row, const ElementS<Op> *x,
                              int64_t x_row, ElementS<Op> *state, bool down, Way way, Put put, Serial serial) {
  if (rows > kAlone) return walk_together<Op>(steps, rows, a, a_row, x, x_row, state, down, way, put, serial);
  walk_row<Op>(
      steps, a, x, state, down, way,
      [=](int64_t i, int64_t n, typename Op::State s) SCANLIB_LAMBDA { put(0, i, n, s); },
      [=](int64_t i, ElementS<Op> carry) { return serial(0, i, carry); });
}

template <class Op>
void rows_forward(int64_t steps, int64_t rows, const ElementA<Op> *a, int64_t a_row, const ElementS<Op> *x,
                  int64_t x_row, ElementS<Op> *h, int64_t h_row, ElementS<Op> *state, bool down) {
  using S = typename Op::StateLanes;
  using One = typename Op::template Over<Single<S>>;
  auto put = [=](int64_t r, int64_t i, int64_t n, typename Op::State s)
                 SCANLIB_LAMBDA { store_n<S>(h + r * h_row + i, s, n); };
  auto serial = [=](int64_t r, int64_t i, ElementS<Op> carry)
                    SCANLIB_LAMBDA { return h[r * h_row + i] = One::step(a[r * a_row + i], carry, x[r * x_row + i]); };
  walk_rows<Op>(steps, rows, a, a_row, x, x_row, state, down, Way::Forward, put, serial);
}

template <class Op>
void rows_backward(int64_t steps, int64_t rows, const ElementA<Op> *a, int64_t a_row, const ElementS<Op> *g,
                   int64_t g_row, const ElementS<Op> *h, int64_t h_row, ElementS<Op> *grad_x, int64_t grad_x_row,
                   ElementA<Op> *grad_a, int64_t grad_a_row, ElementS<Op> *state, bool down, Way way) {
  using A = typename Op::CoefficientLanes;
  using S = typename Op::StateLanes;
  using One = typename Op::template Over<Single<S>>;
  const bool conjugate = way == Way::BackConjugated;
  auto put = [=](int64_t r, int64_t i, int64_t n, typename Op::State s) SCANLIB_LAMBDA {
    store_n<S>(grad_x + r * grad_x_row + i, s, n);
    store_n<A>(grad_a + r * grad_a_row + i, Op::outer(s, conjugated_if<S>(conjugate, load_n<S>(h + r * h_row + i, n))),
               n);
  };
  auto serial = [=](int64_t r, int64_t i, ElementS<Op> carry) SCANLIB_LAMBDA {
    carry = grad_x[r * grad_x_row + i] = One::step(One::adjoint(a[r * a_row + i], conjugate), carry, g[r * g_row + i]);
    grad_a[r * grad_a_row + i] = One::outer(carry, conjugated_if<Single<S>>(conjugate, h[r * h_row + i]));
    return carry;
  };
  walk_rows<Op>(steps, rows, a, a_row, g, g_row, state, down, way, put, serial);
}

// --------------------------------------------------------------------------------------------------------------- summaries

template <class Op>
void rows_summary(int64_t steps, const ElementA<Op> *a, const ElementS<Op> *x, Factors<Singly<Op>> factor,
                  ElementS<Op> *local, bool down, Way way) {
  using A = typename Op::CoefficientLanes;
  using S = typename Op::StateLanes;
  constexpr int N = kStretches<Op>;
  constexpr int64_t kBlock = N * S::W * S::W;
  Summary<Op> all;  // the same in each lane
  for (int i = 0; i < Op::kParts; ++i) all.factor.part[i] = A::all(*factor.part[i]);
  all.local = S::all(*local);
  int64_t done = 0;
  auto pass = [&](int64_t n, const Summary<Op> &of_lanes) SCANLIB_LAMBDA {
    const Summary<Op> lanes = scan_lanes<Op>(of_lanes);
    all = joined<Op>(all, picked<Op, Last<S>>(lanes, lanes));
    done += n;
  };
  auto at = [&](int64_t n) { return down ? steps - done - n : done; };
  while (steps - done >= kBlock) {
    Block<Op, N> b;
    b.down = down;
    b.load(a + at(kBlock), x + at(kBlock), way);
    Summary<Op> stretch[N];
    b.reduce(stretch);
    pass(kBlock, in_order<Op>(stretch));
  }
  while (done < steps) {
    const int64_t n = steps - done < S::W ? steps - done : S::W;
    pass(n, load_steps<Op>(a + at(n), x + at(n), n, down, way));
  }
  for (int i = 0; i < Op::kParts; ++i) *factor.part[i] = A::lane(all.factor.part[i], 0);
  *local = S::lane(all.local, 0);
}

}  // namespace
}  // namespace scanlib
