// Steps of rows in registers: tiles, transposed so that each lane has steps of its own, and blocks of them.
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
// A mask from `by` bytes on, where there is one.
template <bool kMasked>
SCANLIB_INLINE const char *moved(const char *mask, int64_t by) {
  return kMasked ? mask + by : nullptr;
}

// The same of coefficients, which forget where a mask says so: of its bytes row i begins at i * mask_stride.
template <class Op, bool kMasked>
SCANLIB_INLINE void load_tile_on_way(const ElementA<Op> *from, int64_t stride, const char *mask, int64_t mask_stride,
                                     int64_t rows, bool down, Way way,
                                     typename Op::Coefficient (&tile)[Op::CoefficientLanes::W]) {
  using A = typename Op::CoefficientLanes;
  if constexpr (kMasked) {
    typename Op::Coefficient v[A::W];
#pragma GCC unroll 16
    for (int i = 0; i < A::W; ++i) {
      v[i] = A::chosen(mask, A::W, Op::forgetting(), A::load(from));
      from += i + 1 < rows ? stride : 0;
      mask += i + 1 < rows ? mask_stride : 0;
    }
    A::transpose(v);
#pragma GCC unroll 16
    for (int i = 0; i < A::W; ++i) tile[down ? A::W - 1 - i : i] = v[i];
  } else {
    load_tile<A>(from, stride, rows, down, tile);
  }
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
  template <bool kMasked>
  SCANLIB_INLINE void load(const ElementA<Op> *from_a, const ElementS<Op> *from_x, const char *mask, Way way) {
    for (int n = 0; n < N; ++n) {
      const Rows at = rows(n);
      load_tile_on_way<Op, kMasked>(from_a + at.first, at.lane, moved<kMasked>(mask, at.first), at.lane, W, down, way,
                                    a[n]);
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

}  // namespace
}  // namespace scanlib
