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
#include "tiles.h"

namespace scanlib {
namespace {

// ------------------------------------------------------------------------------------------------------------------- walks

// At most a vector of steps of a row, padded with steps that change nothing.
template <class Op, bool kMasked>
SCANLIB_INLINE Summary<Op> load_steps(const ElementA<Op> *a, const ElementS<Op> *x, const char *mask, int64_t n,
                                      bool down, Way way) {
  using A = typename Op::CoefficientLanes;
  using S = typename Op::StateLanes;
  using Idle = typename Op::template Over<Single<A>>;
  auto of_a = n == A::W ? A::load(a) : A::load_part(a, n, Idle::idle());
  if constexpr (kMasked) of_a = A::chosen(mask, n, Op::forgetting(), of_a);
  const auto of_x = n == S::W ? S::load(x) : S::load_part(x, n, Idle::idle_input());
  return one_step<Op>(reversed_if<A>(down, on_way<Op>(way, of_a)), reversed_if<S>(down, of_x));
}

// One row on its walk: where it stands, and what it may have met.
template <class Op, bool kMasked>
struct RowWalk {
  using S = typename Op::StateLanes;
  using State = typename Op::State;
  static constexpr int W = S::W;
  const ElementA<Op> *a;
  const ElementS<Op> *x;
  const char *mask;  // beside a
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
    b.template load<kMasked>(a + at, x + at, moved<kMasked>(mask, at), way);
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
    const State states = applied<Op>(
        scan_lanes<Op>(load_steps<Op, kMasked>(a + at, x + at, moved<kMasked>(mask, at), n, down, way)), carry);
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
template <class Op, bool kMasked, class Put, class Serial>
SCANLIB_INLINE void walk_row(int64_t steps, const ElementA<Op> *a, const ElementS<Op> *x, ElementS<Op> *state,
                             bool down, Way way, Mask mask, Put put, Serial serial) {
  using S = typename Op::StateLanes;
  constexpr int64_t kBlock = S::W * S::W, kMost = kStretches<Op> * kBlock;
  const auto start = S::all(*state);
  RowWalk<Op, kMasked> walk{a, x, mask.at, down, way, start, start, {}};
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
template <class Op, bool kMasked, class Put, class Serial>
SCANLIB_INLINE void walk_together(int64_t steps, int64_t rows, const ElementA<Op> *a, int64_t a_row,
                                  const ElementS<Op> *x, int64_t x_row, ElementS<Op> *state, bool down, Way way,
                                  Mask mask, Put put, Serial serial) {
  using S = typename Op::StateLanes;
  constexpr int W = S::W;
  Block<Op, 1> b;
  b.down = down;
  for (int64_t first = 0; first < rows; first += W) {
    const int64_t left = rows - first < W ? rows - first : W;
    auto walk_alone = [&](int64_t k, int64_t end) {
      for (; k < end; ++k)
        for (int64_t r = first; r < first + left; ++r) state[r] = serial(r, down ? steps - 1 - k : k, state[r]);
    };
    typename Op::State s[1] = {load_n<S>(state + first, left)};
    int64_t k = 0;
    for (; k + W <= steps; k += W) {
      const int64_t at = down ? steps - k - W : k;
      const char *const bytes = moved<kMasked>(mask.at, first * mask.lane + at);
      load_tile_on_way<Op, kMasked>(a + first * a_row + at, a_row, bytes, mask.lane, left, down, way, b.a[0]);
      load_tile<S>(x + first * x_row + at, x_row, left, down, b.x[0]);
      const typename Op::State before = s[0];
      b.walk(s);
      // A state that is not finite would not be forgotten by a product with nothing.
      if (kMasked && __builtin_expect(S::tainted(S::taint(s[0], S::number(0))), 0)) {
        store_n<S>(state + first, before, left);
        walk_alone(k, k + W);
        s[0] = load_n<S>(state + first, left);
        continue;
      }
      put_tile<S>(b.x[0], left, down, [=](int i, typename Op::State v) SCANLIB_LAMBDA { put(first + i, at, W, v); });
    }
    store_n<S>(state + first, s[0], left);
    walk_alone(k, steps);
  }
}

// One row, or several.
template <class Op, bool kMasked, class Put, class Serial>
SCANLIB_INLINE void walk_rows(int64_t steps, int64_t rows, const ElementA<Op> *a, int64_t a_row, const ElementS<Op> *x,
                              int64_t x_row, ElementS<Op> *state, bool down, Way way, Mask mask, Put put,
                              Serial serial) {
  if (rows > kAlone)
    return walk_together<Op, kMasked>(steps, rows, a, a_row, x, x_row, state, down, way, mask, put, serial);
  walk_row<Op, kMasked>(
      steps, a, x, state, down, way, mask,
      [=](int64_t i, int64_t n, typename Op::State s) SCANLIB_LAMBDA { put(0, i, n, s); },
      [=](int64_t i, ElementS<Op> carry) { return serial(0, i, carry); });
}

template <class Op, bool kMasked>
SCANLIB_INLINE void rows_forward_masked(int64_t steps, int64_t rows, const ElementA<Op> *a, int64_t a_row,
                                        const ElementS<Op> *x, int64_t x_row, ElementS<Op> *h, int64_t h_row,
                                        ElementS<Op> *state, bool down, Mask mask) {
  using S = typename Op::StateLanes;
  using One = typename Op::template Over<Single<S>>;
  auto put = [=](int64_t r, int64_t i, int64_t n, typename Op::State s)
                 SCANLIB_LAMBDA { store_n<S>(h + r * h_row + i, s, n); };
  auto serial = [=](int64_t r, int64_t i, ElementS<Op> carry) SCANLIB_LAMBDA {
    const ElementS<Op> enters = x[r * x_row + i];
    if (kMasked && mask.at[r * mask.lane + i]) return h[r * h_row + i] = enters;
    return h[r * h_row + i] = One::step(a[r * a_row + i], carry, enters);
  };
  walk_rows<Op, kMasked>(steps, rows, a, a_row, x, x_row, state, down, Way::Forward, mask, put, serial);
}
template <class Op>
void rows_forward(int64_t steps, int64_t rows, const ElementA<Op> *a, int64_t a_row, const ElementS<Op> *x,
                  int64_t x_row, ElementS<Op> *h, int64_t h_row, ElementS<Op> *state, bool down, Mask mask) {
  if constexpr (Op::kForgets)
    if (mask.at) return rows_forward_masked<Op, true>(steps, rows, a, a_row, x, x_row, h, h_row, state, down, mask);
  rows_forward_masked<Op, false>(steps, rows, a, a_row, x, x_row, h, h_row, state, down, mask);
}

// `mask` and `behind` lie as in columns; either may be none.
template <class Op, bool kMasked, bool kBehind>
SCANLIB_INLINE void rows_backward_masked(int64_t steps, int64_t rows, const ElementA<Op> *a, int64_t a_row,
                                         const ElementS<Op> *g, int64_t g_row, const ElementS<Op> *h, int64_t h_row,
                                         ElementS<Op> *grad_x, int64_t grad_x_row, ElementA<Op> *grad_a,
                                         int64_t grad_a_row, ElementS<Op> *state, bool down, Way way, Mask mask,
                                         Mask behind) {
  using A = typename Op::CoefficientLanes;
  using S = typename Op::StateLanes;
  using One = typename Op::template Over<Single<S>>;
  const bool conjugate = way == Way::BackConjugated;
  auto put = [=](int64_t r, int64_t i, int64_t n, typename Op::State s) SCANLIB_LAMBDA {
    store_n<S>(grad_x + r * grad_x_row + i, s, n);
    auto product = Op::outer(s, conjugated_if<S>(conjugate, load_n<S>(h + r * h_row + i, n)));
    if constexpr (kBehind) product = A::chosen(behind.at + r * behind.lane + i, n, A::number(0), product);
    store_n<A>(grad_a + r * grad_a_row + i, product, n);
  };
  auto serial = [=](int64_t r, int64_t i, ElementS<Op> carry) SCANLIB_LAMBDA {
    const ElementS<Op> enters = g[r * g_row + i];
    const bool cut = kMasked && mask.at[r * mask.lane + i];
    carry = cut ? enters : One::step(One::adjoint(a[r * a_row + i], conjugate), carry, enters);
    grad_x[r * grad_x_row + i] = carry;
    const auto product = One::outer(carry, conjugated_if<Single<S>>(conjugate, h[r * h_row + i]));
    grad_a[r * grad_a_row + i] = kBehind && behind.at[r * behind.lane + i] ? ElementA<Op>{} : product;
    return carry;
  };
  walk_rows<Op, kMasked>(steps, rows, a, a_row, g, g_row, state, down, way, mask, put, serial);
}
template <class Op>
void rows_backward(int64_t steps, int64_t rows, const ElementA<Op> *a, int64_t a_row, const ElementS<Op> *g,
                   int64_t g_row, const ElementS<Op> *h, int64_t h_row, ElementS<Op> *grad_x, int64_t grad_x_row,
                   ElementA<Op> *grad_a, int64_t grad_a_row, ElementS<Op> *state, bool down, Way way, Mask mask,
                   Mask behind) {
  auto run = [=](auto masked, auto is_behind) SCANLIB_LAMBDA {
    rows_backward_masked<Op, masked.value, is_behind.value>(steps, rows, a, a_row, g, g_row, h, h_row, grad_x,
                                                            grad_x_row, grad_a, grad_a_row, state, down, way, mask,
                                                            behind);
  };
  if constexpr (Op::kForgets) {
    if (mask.at && behind.at) return run(std::true_type{}, std::true_type{});
    if (mask.at) return run(std::true_type{}, std::false_type{});
    if (behind.at) return run(std::false_type{}, std::true_type{});
  }
  run(std::false_type{}, std::false_type{});
}

// --------------------------------------------------------------------------------------------------------------- summaries

template <class Op, bool kMasked>
SCANLIB_INLINE void rows_summary_masked(int64_t steps, const ElementA<Op> *a, const ElementS<Op> *x,
                                        Factors<Singly<Op>> factor, ElementS<Op> *local, bool down, Way way,
                                        const char *mask) {
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
    b.template load<kMasked>(a + at(kBlock), x + at(kBlock), moved<kMasked>(mask, at(kBlock)), way);
    Summary<Op> stretch[N];
    b.reduce(stretch);
    pass(kBlock, in_order<Op>(stretch));
  }
  while (done < steps) {
    const int64_t n = steps - done < S::W ? steps - done : S::W;
    pass(n, load_steps<Op, kMasked>(a + at(n), x + at(n), moved<kMasked>(mask, at(n)), n, down, way));
  }
  for (int i = 0; i < Op::kParts; ++i) *factor.part[i] = A::lane(all.factor.part[i], 0);
  *local = S::lane(all.local, 0);
}

template <class Op>
void rows_summary(int64_t steps, const ElementA<Op> *a, const ElementS<Op> *x, Factors<Singly<Op>> factor,
                  ElementS<Op> *local, bool down, Way way, Mask mask) {
  if constexpr (Op::kForgets)
    if (mask.at) return rows_summary_masked<Op, true>(steps, a, x, factor, local, down, way, mask.at);
  rows_summary_masked<Op, false>(steps, a, x, factor, local, down, way, nullptr);
}

}  // namespace
}  // namespace scanlib
