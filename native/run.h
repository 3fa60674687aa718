// Runs a problem on the CPU, with any operator (cuda/linear.h): cuts it (schedule.h), brings every operand into the shape the
// inner loops take (kernels.h), and passes carries from one stretch of time to the next.
//
// Where time is split, the algorithm is Martin and Cundy's (2018, algorithm 1) made single-pass: a piece of work first reduces
// its segment to what it does to any state, which brings it into cache, waits for the carry of the segment before it, passes its
// own carry on (relay.h), and only then walks the segment again from the true carry.
#pragma once
#include <algorithm>
#include <atomic>

#include "arithmetic.h"
#include "grad_sums.h"
#include "kernels.h"
#include "operands.h"
#include "output_pages.h"
#include "problem.h"
#include "relay.h"
#include "schedule.h"
#include "scratch.h"
#include "threads.h"

namespace scanlib {

constexpr int64_t kAloneBytes = 256 * 1024;  // less work than this stays on the calling thread

template <class Op>
class Run {
  // What the numbers of an operator are, and what its coefficients and states are made of.
  using T = typename Op::Element;
  static_assert(sizeof(typename Op::Coefficient) == sizeof(T) && sizeof(typename Op::State) == sizeof(T),
                "operands have one element a step");
  using Source = typename Operands<T>::Source;

 public:
  Run(const scanlib_problem &problem, const Schedule &schedule, const Pointers &data, const Kernels<Op> &kernels)
      : p_(problem),
        s_(schedule),
        kernels_(kernels),
        operands_(problem, schedule, data),
        sums_(problem, schedule, operands_),
        pages_(schedule, operands_) {
    if (s_.backward) way_ = p_.flags & SCANLIB_CONJUGATE ? Way::BackConjugated : Way::Back;
    for (int role : {SCANLIB_A, SCANLIB_X, SCANLIB_H, SCANLIB_GRAD_H, SCANLIB_GRAD_A, SCANLIB_GRAD_X})
      if (operands_.has(role) && !stream(role, place_of(p_, s_, 0, 0)).direct) panels_ = true;
    if (s_.reduce != Reduce::None) panels_ = true;
  }

  int run() {
    const int64_t bytes = s_.groups * s_.lanes * p_.time.extent * int64_t(sizeof(T));
    workers_ = useful_threads(p_.threads, bytes < kAloneBytes ? 1 : s_.items());
    chains_ = s_.segments > 1 ? s_.groups : 0;
    const int64_t shared =
        Relay<T>::room(chains_, s_.lanes) + Arena::room<T>(end_count()) + sums_.room() + pages_.room(workers_);
    return run_pieces(*this, workers_, p_.flags & SCANLIB_OPENMP, shared, Scratch<Op>::room(s_, panels_));
  }

  // For run_pieces().
  void open(Arena &arena) {
    relay_.open(arena, chains_, s_.lanes);
    ends_ = arena.take<T>(end_count());
    sums_.open(arena);
    pages_.open(arena, workers_);
  }
  void work(Arena &arena) {
    Scratch<Op> w(arena, s_, panels_);
    for (int64_t item; (item = relay_.next()) < s_.items();) {
      int64_t segment = item / s_.families, family = item % s_.families;
      int64_t k0 = segment * s_.segment, k1 = std::min(p_.time.extent, k0 + s_.segment);
      sums_.begin(w.sums);
      for (int64_t member = 0; member < s_.family_groups; ++member) {
        const int64_t group = family * s_.family_groups + member;
        sums_.begin_group(w.sums);
        walk(w, place_of(p_, s_, family, member), group, segment, k0, k1);
        sums_.end_group(w.sums, group, segment);
      }
      sums_.end(w.sums, family, k0, k1);
    }
  }
  void close() {
    if (broken_.load(std::memory_order_relaxed)) repair();
    sums_.finish();
  }

 private:
  Stream stream(int role, const Place &place) const { return operands_.stream(role, place); }
  bool conjugates() const { return way_ == Way::BackConjugated; }
  int64_t end_count() const { return Op::kChecked ? chains_ * s_.segments * s_.lanes : 0; }

  int64_t tile_steps(bool all_direct, int64_t lanes) const {
    if (all_direct) return INT64_MAX;
    return s_.rows ? kPanel : std::max<int64_t>(1, Scratch<Op>::panel_count(s_) / lanes);
  }

  // -------------------------------------------------------------------------------------------------- pieces of work

  void walk(Scratch<Op> &w, const Place &place, int64_t group, int64_t segment, int64_t k0, int64_t k1) {
    const int64_t lanes = operands_.lanes(place);
    const bool first = segment == 0, last = segment == s_.segments - 1;
    if (first) {
      load_state(s_.backward ? SCANLIB_GRAD_FINAL : SCANLIB_H0, place, lanes, w.state);
      step_through(w, place, lanes, k0, k1);
      if (!last) relay_.pass_on(group, segment, lanes, w.state);
    } else if (last) {
      relay_.receive(group, segment, lanes, w.state);
      step_through(w, place, lanes, k0, k1);
    } else {
      summarize(w, place, lanes, k0, k1);
      relay_.receive(group, segment, lanes, w.state);
      const bool safe = carry_over(w, lanes);
      if (safe) relay_.pass_on(group, segment, lanes, w.local);
      step_through(w, place, lanes, k0, k1);
      if constexpr (Op::kChecked) check_end(w, group, segment, lanes);
      if (!safe) relay_.pass_on(group, segment, lanes, w.local);
    }
    if (last) finish(w, place, lanes);
  }

  // Turns w.local into the carry out of a segment that the carry in w.state enters. Where a factor or the local state overflowed,
  // a serial loop may have been spared an Inf or an Inf * 0: there it becomes NaN, and false is returned.
  bool carry_over(Scratch<Op> &w, int64_t lanes) const {
    bool safe = true;
    for (int64_t j = 0; j < lanes; ++j) {
      typename Op::Factor factor;
      for (int i = 0; i < Op::kParts; ++i) factor.part[i] = w.factor.part[i][j];
      const T carry = Op::apply(factor, w.state[j], w.local[j]);
      bool good = true;
      if constexpr (Op::kChecked) {
        for (int i = 0; i < Op::kParts; ++i) good = good && finite(factor.part[i]);
        good = good && finite(w.local[j]) && finite(carry);
      }
      w.local[j] = good ? carry : not_a_number(w.local);
      safe = safe && good;
    }
    return safe;
  }
  // After the walk: puts the state that it ended in where carry_over() had none, and notes where that one is finite and this is not.
  void check_end(Scratch<Op> &w, int64_t group, int64_t segment, int64_t lanes) {
    T *const ends = ends_ + (group * s_.segments + segment) * s_.lanes;
    for (int64_t j = 0; j < lanes; ++j) {
      if (!finite(w.local[j])) w.local[j] = w.state[j];
      // The walk overflowed and then met a = 0, which the factor forgot: see repair().
      const bool broken = !finite(w.state[j]) && finite(w.local[j]);
      ends[j] = broken ? w.state[j] : T{};
      if (broken) broken_.store(true, std::memory_order_relaxed);
    }
  }

  void step_through(Scratch<Op> &w, const Place &place, int64_t lanes, int64_t k0, int64_t k1) {
    pages_.reach(place, lanes, k0, k1);
    if constexpr (Op::kDifferentiable) {
      if (s_.backward) return backward(w, place, lanes, k0, k1, w.state);
    }
    forward(w, place, lanes, k0, k1, w.state);
  }

  void finish(Scratch<Op> &w, const Place &place, int64_t lanes) {
    if (!s_.backward) return operands_.store_state(SCANLIB_FINAL, place, lanes, w.state);
    if constexpr (Op::kDifferentiable) {
      if (!operands_.has(SCANLIB_GRAD_H0)) return;
      operands_.load_step(stream(SCANLIB_A, place), p_.time.extent - 1, lanes, w.edge);
      for (int64_t j = 0; j < lanes; ++j) w.edge[j] = Op::times(Op::adjoint(w.edge[j], conjugates()), w.state[j]);
      operands_.store_state(SCANLIB_GRAD_H0, place, lanes, w.edge);
    }
  }

  void load_state(int role, const Place &place, int64_t lanes, T *to) const {
    operands_.load_state(role, place, lanes, to, Op::nothing());
  }

  // -------------------------------------------------------------------------------------------------- segments
  //
  // Each walks steps [k0, k1) of a group, states in and out in `state`.

  void forward(Scratch<Op> &w, const Place &place, int64_t lanes, int64_t k0, int64_t k1, T *state) {
    const Stream a = stream(SCANLIB_A, place), x = stream(SCANLIB_X, place), h = stream(SCANLIB_H, place);
    const int64_t tile = tile_steps(a.direct && x.direct && h.direct, lanes);
    const Operands<T> &o = operands_;
    for (int64_t k = k0, n; k < k1; k += n) {
      n = std::min(tile, k1 - k);
      if (s_.together && tile == INT64_MAX) {
        kernels_.rows_forward(n, lanes, o.direct_row(a, k, n, 0), a.lane_elements(), o.direct_row(x, k, n, 0),
                              x.lane_elements(), o.direct_row(h, k, n, 0), h.lane_elements(), state, s_.down);
      } else if (s_.rows) {
        for (int64_t j = 0; j < lanes; ++j) {
          T *out = o.row_out(h, k, n, j, w.panel[2].data);
          kernels_.rows_forward(n, kAlone, o.row_in(a, k, n, j, w.panel[0]), 0, o.row_in(x, k, n, j, w.panel[1]), 0,
                                out, 0, state + j, s_.down);
          o.row_flush(h, k, n, j, out);
        }
      } else {
        const Source pa = o.columns_in(a, k, n, lanes, w.panel[0].data);
        const Source px = o.columns_in(x, k, n, lanes, w.panel[1].data);
        const Source ph = o.columns_out(h, k, lanes, w.panel[2].data);
        kernels_.columns_forward(n, lanes, pa.data, pa.step, px.data, px.step, ph.data, ph.step, state);
        o.columns_flush(h, k, n, lanes, ph.data);
      }
    }
  }

  // What steps [k0, k1) do to any carry: w.factor and w.local. In backward the coefficients lie one step earlier, so k0 > 0.
  void summarize(Scratch<Op> &w, const Place &place, int64_t lanes, int64_t k0, int64_t k1) {
    const Stream a = stream(SCANLIB_A, place), x = stream(s_.backward ? SCANLIB_GRAD_H : SCANLIB_X, place);
    const int64_t shift = s_.backward ? -1 : 0;
    const int64_t tile = tile_steps(a.direct && x.direct, lanes);
    const Operands<T> &o = operands_;
    const typename Op::Factor unit = Op::unit();
    for (int i = 0; i < Op::kParts; ++i) std::fill(w.factor.part[i], w.factor.part[i] + lanes, unit.part[i]);
    std::fill(w.local, w.local + lanes, Op::nothing());
    for (int64_t k = k0, n; k < k1; k += n) {
      n = std::min(tile, k1 - k);
      if (s_.rows) {
        for (int64_t j = 0; j < lanes; ++j)
          kernels_.rows_summary(n, o.row_in(a, k + shift, n, j, w.panel[0]), o.row_in(x, k, n, j, w.panel[1]),
                                w.factor.from(j), w.local + j, s_.down, way_);
      } else {
        const Source pa = o.columns_in(a, k + shift, n, lanes, w.panel[0].data);
        const Source px = o.columns_in(x, k, n, lanes, w.panel[1].data);
        kernels_.columns_summary(n, lanes, pa.data, pa.step, px.data, px.step, w.factor, w.local, way_);
      }
    }
  }

  // Step k of the backward walk uses a of step k - 1 (before the first: one without effect) and h of step k + 1 (after the last: h0,
  // in `edge`). The first and the last step of all are walked on their own, with those in place of the operands.
  void backward(Scratch<Op> &w, const Place &place, int64_t lanes, int64_t k0, int64_t k1, T *state) {
    const Stream a = stream(SCANLIB_A, place), h = stream(SCANLIB_H, place), g = stream(SCANLIB_GRAD_H, place);
    const Stream grad_a = stream(SCANLIB_GRAD_A, place), grad_x = stream(SCANLIB_GRAD_X, place);
    const int64_t tile = tile_steps(a.direct && h.direct && g.direct && grad_a.direct && grad_x.direct, lanes);
    const int64_t last = p_.time.extent - 1;
    const Operands<T> &o = operands_;
    if (k1 > last) load_state(SCANLIB_H0, place, lanes, w.edge);
    for (int64_t k = k0, n; k < k1; k += n) {
      n = k == 0 || k == last ? 1 : std::min(tile, std::min(k1, last) - k);
      if (s_.together && tile == INT64_MAX) {
        kernels_.rows_backward(n, lanes, k == 0 ? w.idle : o.direct_row(a, k - 1, n, 0), k == 0 ? 1 : a.lane_elements(),
                               o.direct_row(g, k, n, 0), g.lane_elements(),
                               k == last ? w.edge : o.direct_row(h, k + 1, n, 0), k == last ? 1 : h.lane_elements(),
                               o.direct_row(grad_x, k, n, 0), grad_x.lane_elements(), o.direct_row(grad_a, k, n, 0),
                               grad_a.lane_elements(), state, s_.down, way_);
      } else if (s_.rows) {
        for (int64_t j = 0; j < lanes; ++j) {
          T *out_a = o.row_out(grad_a, k, n, j, w.panel[3].data), *out_x = o.row_out(grad_x, k, n, j, w.panel[4].data);
          kernels_.rows_backward(n, kAlone, k == 0 ? w.idle : o.row_in(a, k - 1, n, j, w.panel[0]), 0,
                                 o.row_in(g, k, n, j, w.panel[1]), 0,
                                 k == last ? w.edge + j : o.row_in(h, k + 1, n, j, w.panel[2]), 0, out_x, 0, out_a, 0,
                                 state + j, s_.down, way_);
          o.row_flush(grad_x, k, n, j, out_x);
          if (s_.reduce == Reduce::None)
            o.row_flush(grad_a, k, n, j, out_a);
          else
            sums_.add_row(w.sums, j, k - k0, n, k1 - k0, out_a);
        }
      } else {
        const Source pa = k == 0 ? Source{w.idle, 0} : o.columns_in(a, k - 1, n, lanes, w.panel[0].data);
        const Source pg = o.columns_in(g, k, n, lanes, w.panel[1].data);
        const Source ph = k == last ? Source{w.edge, 0} : o.columns_in(h, k + 1, n, lanes, w.panel[2].data);
        const Source pga = o.columns_out(grad_a, k, lanes, w.panel[3].data);
        const Source pgx = o.columns_out(grad_x, k, lanes, w.panel[4].data);
        kernels_.columns_backward(n, lanes, pa.data, pa.step, pg.data, pg.step, ph.data, ph.step, pgx.data, pgx.step,
                                  pga.data, pga.step, state, way_);
        o.columns_flush(grad_x, k, n, lanes, pgx.data);
        if (s_.reduce == Reduce::None)
          o.columns_flush(grad_a, k, n, lanes, pga.data);
        else
          sums_.add_columns(w.sums, k - k0, n, lanes, pga.data);
      }
    }
  }

  // -------------------------------------------------------------------------------------------------- repair
  //
  // A sequence whose walk ended a segment in NaN or Inf, while the carry passed on was finite, goes on from there as a serial loop
  // would: it never becomes finite again. Elements are taken one by one; this is rare enough.

  void repair() {
    for (int64_t group = 0; group < s_.groups; ++group) {
      const Place place = place_of(p_, s_, group / s_.family_groups, group % s_.family_groups);
      for (int64_t j = 0; j < operands_.lanes(place); ++j)
        for (int64_t segment = 1; segment < s_.segments - 1; ++segment) {
          const T end = ends_[(group * s_.segments + segment) * s_.lanes + j];
          if (finite(end)) continue;
          const int64_t k0 = (segment + 1) * s_.segment;
          if (!s_.backward)
            repair_forward(place, j, k0, end);
          else if constexpr (Op::kDifferentiable)
            repair_backward(group, place, j, k0, end);
          break;
        }
    }
  }

  void repair_forward(const Place &place, int64_t lane, int64_t k0, T state) {
    const Stream a = stream(SCANLIB_A, place), h = stream(SCANLIB_H, place);
    const Stream x = stream(SCANLIB_X, place);  // in place, what h was: as finite as x, and no more than that matters
    for (int64_t k = k0; k < p_.time.extent; ++k) {
      state = Op::step(operands_.element(a, k, lane), state, operands_.element(x, k, lane));
      operands_.set_element(h, k, lane, state);
    }
    if (operands_.has(SCANLIB_FINAL)) operands_.set_element(stream(SCANLIB_FINAL, place), 0, lane, state);
  }

  void repair_backward(int64_t group, const Place &place, int64_t lane, int64_t k0, T state) {
    const Stream a = stream(SCANLIB_A, place), h = stream(SCANLIB_H, place), h0 = stream(SCANLIB_H0, place);
    const Stream g = stream(SCANLIB_GRAD_H, place), grad_x = stream(SCANLIB_GRAD_X, place);
    const Stream grad_a = stream(SCANLIB_GRAD_A, place);
    const Operands<T> &o = operands_;
    auto coefficient = [&](int64_t k) { return Op::adjoint(o.element(a, k, lane), conjugates()); };
    for (int64_t k = k0; k < p_.time.extent; ++k) {
      state = Op::step(coefficient(k - 1), state, o.element(g, k, lane));
      o.set_element(grad_x, k, lane, state);
      T before = Op::nothing();
      if (k + 1 < p_.time.extent)
        before = o.element(h, k + 1, lane);
      else if (o.has(SCANLIB_H0))
        before = o.element(h0, 0, lane);
      const T product = Op::outer(state, conjugates() ? conjugated(before) : before);
      if (s_.reduce == Reduce::Time)
        sums_.add_late(group, k / s_.segment, lane, product);
      else
        o.set_element(grad_a, k, lane,
                      s_.reduce == Reduce::Lanes ? plus(o.element(grad_a, k, lane), product) : product);
    }
    if (o.has(SCANLIB_GRAD_H0))
      o.set_element(stream(SCANLIB_GRAD_H0, place), 0, lane, Op::times(coefficient(p_.time.extent - 1), state));
  }

  const scanlib_problem &p_;
  const Schedule &s_;
  const Kernels<Op> &kernels_;
  const Operands<T> operands_;
  GradSums<T> sums_;
  OutputPages<T> pages_;
  Relay<T> relay_;
  bool panels_ = false;
  Way way_ = Way::Forward;
  int workers_ = 1;
  int64_t chains_ = 0;  // of the relay: groups, where time is in segments
  T *ends_ = nullptr;   // [group][segment][lane]: check_end(); set between the first and the last segment
  std::atomic<bool> broken_{false};
};

}  // namespace scanlib
