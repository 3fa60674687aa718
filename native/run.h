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
#include "starts.h"
#include "stretches.h"
#include "threads.h"

namespace scanlib {

constexpr int64_t kAloneBytes = 256 * 1024;  // less work than this stays on the calling thread

template <class Op>
class Run {
  // What the numbers of an operator are, and what its coefficients and states are made of.
  using T = typename Op::Element;
  static_assert(sizeof(typename Op::Coefficient) == sizeof(T) && sizeof(typename Op::State) == sizeof(T),
                "operands have one element a step");

 public:
  Run(const scanlib_problem &problem, const Schedule &schedule, const Pointers &data, const Kernels<Op> &kernels)
      : p_(problem),
        s_(schedule),
        operands_(problem, schedule, data),
        starts_(problem, schedule, data, operands_),
        sums_(problem, schedule, operands_),
        stretches_(problem, schedule, kernels, operands_, starts_, sums_),
        pages_(schedule, operands_) {
    for (int role : {SCANLIB_A, SCANLIB_X, SCANLIB_H, SCANLIB_GRAD_H, SCANLIB_GRAD_A, SCANLIB_GRAD_X})
      if (operands_.has(role) && !stream(role, place_of(p_, s_, 0, 0)).direct) panels_ = true;
    if (s_.reduce != Reduce::None || !stretches_.mask_stream(place_of(p_, s_, 0, 0)).direct) panels_ = true;
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
  bool conjugates() const { return stretches_.conjugates(); }
  int64_t end_count() const { return Op::kChecked ? chains_ * s_.segments * s_.lanes : 0; }

  // -------------------------------------------------------------------------------------------------- pieces of work

  void walk(Scratch<Op> &w, const Place &place, int64_t group, int64_t segment, int64_t k0, int64_t k1) {
    const int64_t lanes = operands_.lanes(place);
    const Unit all{place, 0, lanes, k0, k1};
    const bool first = segment == 0, last = segment == s_.segments - 1;
    if (first) {
      starts_.enter(all, 0, w.state);
      step_through(w, all);
      if (!last) relay_.pass_on(group, segment, lanes, w.state);
    } else if (last) {
      relay_.receive(group, segment, lanes, w.state);
      step_through(w, all);
    } else {
      const bool started = stretches_.summarize(w, all);
      relay_.receive(group, segment, lanes, w.state);
      const bool safe = carry_over(w, lanes, started);
      if (safe) relay_.pass_on(group, segment, lanes, w.local);
      step_through(w, all);
      if constexpr (Op::kChecked) check_end(w, group, segment, lanes);
      if (!safe) relay_.pass_on(group, segment, lanes, w.local);
    }
    if (last) starts_.leave(all, p_.time.extent, w.state, conjugates(), w.edge);
  }

  // Turns w.local into the carry out of a segment that the carry in w.state enters, or has nothing to do with where sequences have
  // `started`. Where a factor or the local state overflowed, a serial loop may have been spared an Inf or an Inf * 0: there it becomes
  // NaN, and false is returned.
  bool carry_over(Scratch<Op> &w, int64_t lanes, bool started) const {
    bool safe = true;
    for (int64_t j = 0; j < lanes; ++j) {
      typename Op::Factor factor;
      for (int i = 0; i < Op::kParts; ++i) factor.part[i] = w.factor.part[i][j];
      const T carry = started ? w.local[j] : Op::apply(factor, w.state[j], w.local[j]);
      bool good = true;
      if constexpr (Op::kChecked) {
        for (int i = 0; i < Op::kParts && !started; ++i) good = good && finite(factor.part[i]);
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

  void step_through(Scratch<Op> &w, const Unit &all) {
    pages_.reach(all.place, all.lanes, all.k0, all.k1);
    stretches_.walk(w, all);
  }

  // -------------------------------------------------------------------------------------------------- repair
  //
  // A sequence whose walk ended a segment in NaN or Inf, while the carry passed on was finite, goes on from there as a serial loop
  // would: it never becomes finite again before another one starts. Elements are taken one by one; this is rare enough.

  void repair() {
    for (int64_t group = 0; group < s_.groups; ++group) {
      const Place place = place_of(p_, s_, group / s_.family_groups, group % s_.family_groups);
      for (int64_t j = 0; j < operands_.lanes(place); ++j)
        for (int64_t segment = 1; segment < s_.segments - 1; ++segment) {
          const T end = ends_[(group * s_.segments + segment) * s_.lanes + j];
          if (!finite(end))
            segment = std::max(segment, repair_lane(group, place, j, (segment + 1) * s_.segment, end) - 1);
        }
    }
  }
  // From step k on, as far as its sequence goes; returns the segment of time in which that ends.
  int64_t repair_lane(int64_t group, const Place &place, int64_t lane, int64_t k, T state) {
    const Unit u{place, lane, 1, k, k};
    const int64_t end = starts_.next(place, lane, k, p_.time.extent);
    for (; k < end; ++k) {
      if (!s_.backward)
        state = repair_forward(place, lane, k, state);
      else if constexpr (Op::kDifferentiable)
        state = repair_backward(group, u, k, state);
    }
    T room;
    if (end == p_.time.extent || starts_.by_offsets()) starts_.leave(u, end, &state, conjugates(), &room);
    return end / s_.segment;
  }

  T repair_forward(const Place &place, int64_t lane, int64_t k, T state) {
    const Stream a = stream(SCANLIB_A, place), h = stream(SCANLIB_H, place);
    const Stream x = stream(SCANLIB_X, place);  // in place, what h was: as finite as x, and no more than that matters
    state = Op::step(operands_.element(a, k, lane), state, operands_.element(x, k, lane));
    operands_.set_element(h, k, lane, state);
    return state;
  }

  T repair_backward(int64_t group, const Unit &u, int64_t k, T state) {
    const Stream a = stream(SCANLIB_A, u.place), h = stream(SCANLIB_H, u.place);
    const Stream g = stream(SCANLIB_GRAD_H, u.place), grad_x = stream(SCANLIB_GRAD_X, u.place);
    const Stream grad_a = stream(SCANLIB_GRAD_A, u.place);
    const Operands<T> &o = operands_;
    const int64_t lane = u.first;
    state = Op::step(Op::adjoint(o.element(a, k - 1, lane), conjugates()), state, o.element(g, k, lane));
    o.set_element(grad_x, k, lane, state);
    T before;
    if (k + 1 == p_.time.extent || starts_.next(k + 1, k + 2) == k + 1)
      starts_.states_behind(u, k, &before);
    else
      before = o.element(h, k + 1, lane);
    T product = Op::outer(state, conjugates() ? conjugated(before) : before);
    if (starts_.cut(u.place, lane, k + 1)) product = T{};
    if (s_.reduce == Reduce::Time)
      sums_.add_late(group, k / s_.segment, lane, product);
    else
      o.set_element(grad_a, k, lane, s_.reduce == Reduce::Lanes ? plus(o.element(grad_a, k, lane), product) : product);
    return state;
  }

  const scanlib_problem &p_;
  const Schedule &s_;
  const Operands<T> operands_;
  const Starts<Op> starts_;
  GradSums<T> sums_;
  const Stretches<Op> stretches_;
  OutputPages<T> pages_;
  Relay<T> relay_;
  bool panels_ = false;
  int workers_ = 1;
  int64_t chains_ = 0;  // of the relay: groups, where time is in segments
  T *ends_ = nullptr;   // [group][segment][lane]: check_end(); set between the first and the last segment
  std::atomic<bool> broken_{false};
};

}  // namespace scanlib
