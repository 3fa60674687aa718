// Runs a problem on the CPU: cuts it (schedule.h), brings every operand into the shape the inner loops take (kernels.h), and
// passes carries from one stretch of time to the next.
//
// Where time is split, the algorithm is Martin and Cundy's (2018, algorithm 1) made single-pass: an item first reduces its
// segment to (product, local state), which brings it into cache, waits for the carry of the segment before it, passes its own
// carry on, and only then walks the segment again from the true carry. Items are handed out in order of time, so whoever waits
// waits for one that is already running. Carries are combined one by one, in order: the bits do not depend on who was first.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>

#include "../cuda/factor.h"
#include "arithmetic.h"
#include "dispatch.h"
#include "kernels.h"
#include "operands.h"
#include "pages.h"
#include "problem.h"
#include "schedule.h"
#include "scratch.h"
#include "threads.h"

namespace scanlib {

constexpr int64_t kAloneBytes = 256 * 1024;  // less work than this stays on the calling thread
constexpr int64_t kStackBytes = 16 * 1024;

template <class T>
class Run : Operands<T> {
  using Sum = typename SumOf<T>::type;
  using Source = typename Operands<T>::Source;
  using Span = typename Operands<T>::Span;
  using Operands<T>::p_, Operands<T>::s_, Operands<T>::data_, Operands<T>::kernels_, Operands<T>::stream;
  using Operands<T>::load_state, Operands<T>::store_state, Operands<T>::span;
  using Operands<T>::columns_in, Operands<T>::columns_out, Operands<T>::columns_flush;
  using Operands<T>::direct_row, Operands<T>::row_in, Operands<T>::row_out, Operands<T>::row_flush;

 public:
  Run(const scanlib_problem &problem, const Schedule &schedule, const Pointers &data)
      : Operands<T>(problem, schedule, data) {
    conjugate_ = (p_.flags & SCANLIB_CONJUGATE) != 0;
    for (int role : {SCANLIB_A, SCANLIB_X, SCANLIB_H, SCANLIB_GRAD_H, SCANLIB_GRAD_A, SCANLIB_GRAD_X})
      if (given(p_, role) && !stream(role, place_of(p_, s_, 0, 0)).direct) panels_ = true;
    if (s_.reduce != Reduce::None) panels_ = true;
  }

  int run() {
    int64_t bytes = s_.groups * s_.lanes * p_.time.extent * int64_t(sizeof(T));
    workers_ = useful_threads(p_.threads, bytes < kAloneBytes ? 1 : s_.items());
    const bool carries = s_.segments > 1, slots = s_.reduce == Reduce::Time;
    const int64_t slot_count = slots ? s_.groups * s_.segments * s_.lanes : 0;
    const int64_t carry_count = carries ? s_.groups * s_.segments : 0;
    const int64_t kept = slots ? kept_count(p_) : 0;
    int64_t room = workers_ * Scratch<T>::room(s_, panels_) + 2 * Arena::room<T>(carry_count * s_.lanes) +
                   Arena::room<std::atomic<int>>(carry_count) + Arena::room<Sum>(slot_count) + Arena::room<Sum>(kept);
    for (int role : kLargeOutputs) room += Arena::room<Pages::Mark>(shared_pages(role));
    alignas(64) char stack[kStackBytes];
    char *heap = nullptr;
    if (room > kStackBytes && !(heap = static_cast<char *>(std::aligned_alloc(64, size_t(room)))))
      return SCANLIB_E_MEMORY;
    scratch_ = heap ? heap : stack;
    Arena arena(scratch_ + workers_ * Scratch<T>::room(s_, panels_));
    carries_ = arena.take<T>(carry_count * s_.lanes);
    ends_ = arena.take<T>(carry_count * s_.lanes);
    ready_ = arena.take<std::atomic<int>>(carry_count);
    for (int64_t i = 0; i < carry_count; ++i) new (&ready_[i]) std::atomic<int>(0);
    slots_ = arena.take<Sum>(slot_count);
    Sum *total = arena.take<Sum>(kept);

    for (int role : kLargeOutputs) open_pages(role, arena);
    run_on_threads(workers_, p_.flags & SCANLIB_OPENMP, [](void *self) { static_cast<Run *>(self)->work(); }, this);
    if (broken_.load(std::memory_order_relaxed)) repair();
    if (slots) add_slots(total, kept);
    std::free(heap);
    return SCANLIB_OK;
  }

 private:
  int64_t tile_steps(bool all_direct, int64_t lanes) const {
    if (all_direct) return INT64_MAX;
    return s_.rows ? kPanel : std::max<int64_t>(1, Scratch<T>::panel_count(s_) / lanes);
  }

  // -------------------------------------------------------------------------------------------------- pages of outputs

  static constexpr int kLargeOutputs[] = {SCANLIB_H, SCANLIB_GRAD_X, SCANLIB_GRAD_A};

  bool written(int role) const { return given(p_, role) && kRoleTraits[role].use(s_.backward) & SCANLIB_WRITTEN; }

  // How many pages of an output several threads will be in at the same time: where time is split, neighbours in time are.
  int64_t shared_pages(int role) const {
    if (workers_ == 1 || s_.segments == 1 || !written(role)) return 0;
    if (role == SCANLIB_GRAD_A && s_.reduce != Reduce::None) return 0;
    if (role == SCANLIB_H && data_.of[SCANLIB_X] == data_.of[SCANLIB_H]) return 0;  // in place: it holds x
    const Span whole = span(role);
    return whole.room() == whole.filled ? Pages::count(whole.begin, whole.end) : 0;
  }
  void open_pages(int role, Arena &arena) {
    if (!written(role)) return;
    const Span whole = span(role);
    if (whole.room() > 2 * whole.filled) return;  // scattered over memory that is not ours to judge
    Pages::advise(whole.begin, whole.end);
    if (int64_t count = shared_pages(role)) pages_[role].watch(whole.begin, whole.end, arena.take<Pages::Mark>(count));
  }
  void reach_pages(const Place &place, int64_t lanes, int64_t k0, int64_t k1) {
    for (int role : kLargeOutputs) {
      if (!pages_[role].watched()) continue;
      const Stream s = stream(role, place);
      const char *corners[] = {s.at(k0, 0), s.at(k1 - 1, 0), s.at(k0, lanes - 1), s.at(k1 - 1, lanes - 1)};
      const auto [low, high] = std::minmax_element(std::begin(corners), std::end(corners));
      pages_[role].reach(*low, *high + s.size, s.step < 0);
    }
  }

  // -------------------------------------------------------------------------------------------------- segments
  //
  // Each walks steps [k0, k1) of a group, states in and out in `state`.

  void forward(Scratch<T> &w, const Place &place, int64_t lanes, int64_t k0, int64_t k1, T *state) {
    Stream a = stream(SCANLIB_A, place), x = stream(SCANLIB_X, place), h = stream(SCANLIB_H, place);
    const int64_t tile = tile_steps(a.direct && x.direct && h.direct, lanes);
    for (int64_t k = k0, n; k < k1; k += n) {
      n = std::min(tile, k1 - k);
      if (s_.together && tile == INT64_MAX) {
        kernels_.rows_forward(n, lanes, direct_row(a, k, n, 0), a.lane_elements(), direct_row(x, k, n, 0),
                              x.lane_elements(), direct_row(h, k, n, 0), h.lane_elements(), state, s_.down);
      } else if (s_.rows) {
        for (int64_t j = 0; j < lanes; ++j) {
          T *out = row_out(h, k, n, j, w.panel[2].data);
          kernels_.rows_forward(n, kAlone, row_in(a, k, n, j, w.panel[0]), 0, row_in(x, k, n, j, w.panel[1]), 0, out, 0,
                                state + j, s_.down);
          row_flush(h, k, n, j, out);
        }
      } else {
        Source pa = columns_in(a, k, n, lanes, w.panel[0].data), px = columns_in(x, k, n, lanes, w.panel[1].data);
        Source ph = columns_out(h, k, lanes, w.panel[2].data);
        kernels_.columns_forward(n, lanes, pa.data, pa.step, px.data, px.step, ph.data, ph.step, state);
        columns_flush(h, k, n, lanes, ph.data);
      }
    }
  }

  // What steps [k0, k1) do to any carry: product and local. In backward the coefficients lie one step earlier, so k0 > 0.
  void summarize(Scratch<T> &w, const Place &place, int64_t lanes, int64_t k0, int64_t k1) {
    Stream a = stream(SCANLIB_A, place), x = stream(s_.backward ? SCANLIB_GRAD_H : SCANLIB_X, place);
    const int64_t shift = s_.backward ? -1 : 0;
    const bool conjugate = s_.backward && conjugate_;
    const int64_t tile = tile_steps(a.direct && x.direct, lanes);
    std::fill(w.product, w.product + lanes, unit(w.product));
    for (T *zero : {w.lost, w.local}) std::memset(static_cast<void *>(zero), 0, size_t(lanes) * sizeof(T));
    for (int64_t k = k0, n; k < k1; k += n) {
      n = std::min(tile, k1 - k);
      if (s_.rows) {
        for (int64_t j = 0; j < lanes; ++j)
          kernels_.rows_summary(n, row_in(a, k + shift, n, j, w.panel[0]), row_in(x, k, n, j, w.panel[1]),
                                w.product + j, w.lost + j, w.local + j, s_.down, conjugate);
      } else {
        Source pa = columns_in(a, k + shift, n, lanes, w.panel[0].data),
               px = columns_in(x, k, n, lanes, w.panel[1].data);
        kernels_.columns_summary(n, lanes, pa.data, pa.step, px.data, px.step, w.product, w.lost, w.local, conjugate);
      }
    }
  }

  // Step k of the backward walk uses a of step k - 1 (before the first: one) and h of step k + 1 (after the last: h0, in
  // `edge`). The first and the last step of all are walked on their own, with those in place of the operands.
  void backward(Scratch<T> &w, const Place &place, int64_t lanes, int64_t k0, int64_t k1, T *state) {
    Stream a = stream(SCANLIB_A, place), h = stream(SCANLIB_H, place), g = stream(SCANLIB_GRAD_H, place);
    Stream grad_a = stream(SCANLIB_GRAD_A, place), grad_x = stream(SCANLIB_GRAD_X, place);
    const int64_t tile = tile_steps(a.direct && h.direct && g.direct && grad_a.direct && grad_x.direct, lanes);
    const int64_t last = p_.time.extent - 1;
    if (k1 > last) load_state(SCANLIB_H0, place, lanes, w.edge);
    for (int64_t k = k0, n; k < k1; k += n) {
      n = k == 0 || k == last ? 1 : std::min(tile, std::min(k1, last) - k);
      if (s_.together && tile == INT64_MAX) {
        kernels_.rows_backward(n, lanes, k == 0 ? w.ones : direct_row(a, k - 1, n, 0), k == 0 ? 1 : a.lane_elements(),
                               direct_row(g, k, n, 0), g.lane_elements(),
                               k == last ? w.edge : direct_row(h, k + 1, n, 0), k == last ? 1 : h.lane_elements(),
                               direct_row(grad_x, k, n, 0), grad_x.lane_elements(), direct_row(grad_a, k, n, 0),
                               grad_a.lane_elements(), state, s_.down, conjugate_);
      } else if (s_.rows) {
        for (int64_t j = 0; j < lanes; ++j) {
          T *out_a = row_out(grad_a, k, n, j, w.panel[3].data), *out_x = row_out(grad_x, k, n, j, w.panel[4].data);
          kernels_.rows_backward(n, kAlone, k == 0 ? w.ones : row_in(a, k - 1, n, j, w.panel[0]), 0,
                                 row_in(g, k, n, j, w.panel[1]), 0,
                                 k == last ? w.edge + j : row_in(h, k + 1, n, j, w.panel[2]), 0, out_x, 0, out_a, 0,
                                 state + j, s_.down, conjugate_);
          row_flush(grad_x, k, n, j, out_x);
          if (s_.reduce == Reduce::None)
            row_flush(grad_a, k, n, j, out_a);
          else
            sum_row(w, j, k - k0, n, k1 - k0, out_a);
        }
      } else {
        Source pa = k == 0 ? Source{w.ones, 0} : columns_in(a, k - 1, n, lanes, w.panel[0].data);
        Source pg = columns_in(g, k, n, lanes, w.panel[1].data);
        Source ph = k == last ? Source{w.edge, 0} : columns_in(h, k + 1, n, lanes, w.panel[2].data);
        Source pga = columns_out(grad_a, k, lanes, w.panel[3].data),
               pgx = columns_out(grad_x, k, lanes, w.panel[4].data);
        kernels_.columns_backward(n, lanes, pa.data, pa.step, pg.data, pg.step, ph.data, ph.step, pgx.data, pgx.step,
                                  pga.data, pga.step, state, conjugate_);
        columns_flush(grad_x, k, n, lanes, pgx.data);
        if (s_.reduce == Reduce::None)
          columns_flush(grad_a, k, n, lanes, pga.data);
        else
          sum_columns(w, k - k0, n, lanes, pga.data);
      }
    }
  }

  // -------------------------------------------------------------------------------------------------- sums of grad_a
  //
  // Reduce::Lanes keeps a sum for each step of the segment and each lane that grad_a has: [step][lane] for columns, [lane][by
  // address] for rows.

  bool lanes_summed() const { return p_.inner.extent > 1 && p_.inner.stride[SCANLIB_GRAD_A] == 0; }

  void sum_columns(Scratch<T> &w, int64_t k, int64_t n, int64_t lanes, const T *values) {
    if (s_.reduce == Reduce::Time)
      kernels_.sum_steps(n, lanes, values, lanes, w.sums);
    else if (!lanes_summed())
      kernels_.sum_steps(1, n * lanes, values, 0, w.sums + k * lanes);
    else
      for (int64_t i = 0; i < n; ++i) add(w.sums[k + i], kernels_.total(lanes, values + i * lanes));
  }
  void sum_row(Scratch<T> &w, int64_t lane, int64_t k, int64_t n, int64_t length, const T *values) {
    if (s_.reduce == Reduce::Time) return add(w.sums[lane], kernels_.total(n, values));
    int64_t at = s_.down ? length - k - n : k;
    kernels_.sum_steps(1, n, values, 0, w.sums + (lanes_summed() ? 0 : lane * s_.segment) + at);
  }

  // Writes the sums of Reduce::Lanes over steps [k0, k1).
  void store_sums(Scratch<T> &w, const Place &place, int64_t lanes, int64_t k0, int64_t k1) {
    Stream grad_a = stream(SCANLIB_GRAD_A, place);
    const int64_t kept = lanes_summed() ? 1 : lanes, length = k1 - k0;
    for (int64_t k = k0; k < k1; ++k)
      for (int64_t j = 0; j < kept; ++j) {
        int64_t at = s_.rows ? j * s_.segment + (s_.down ? length - 1 - (k - k0) : k - k0) : (k - k0) * kept + j;
        store_sum(w.sums[at], grad_a.dtype, grad_a.at(k, j));
      }
  }
  void store_sum(Sum sum, int32_t dtype, char *to) const {
    static_cast<const Kernels<Sum> &>(instruction_set()).narrow[dtype](1, &sum, to, 0);
  }

  // Adds up the slots of Reduce::Time, in order, and writes grad_a.
  void add_slots(Sum *total, int64_t kept) {
    std::memset(static_cast<void *>(total), 0, size_t(kept) * sizeof(Sum));
    for (int64_t group = 0; group < s_.groups; ++group) {
      Place place = place_of(p_, s_, group, 0);
      Sum *target = total + kept_index(p_, s_, place);
      int64_t lanes = lanes_at(place);
      for (int64_t segment = 0; segment < s_.segments; ++segment) {
        const Sum *slot = slots_ + (group * s_.segments + segment) * s_.lanes;
        for (int64_t j = 0; j < lanes; ++j) add(target[lanes_summed() ? 0 : j], slot[j]);
      }
    }
    for (int64_t group = 0; group < s_.groups; ++group) {  // groups that share elements write the same sums again
      Place place = place_of(p_, s_, group, 0);
      Stream grad_a = stream(SCANLIB_GRAD_A, place);
      const Sum *from = total + kept_index(p_, s_, place);
      int64_t lanes = lanes_summed() ? 1 : lanes_at(place);
      for (int64_t j = 0; j < lanes; ++j) store_sum(from[j], grad_a.dtype, grad_a.at(0, j));
    }
  }

  // -------------------------------------------------------------------------------------------------- items

  int64_t lanes_at(const Place &place) const { return std::min(s_.lanes, p_.inner.extent - place.chunk * s_.lanes); }

  void work() {
    int worker = next_worker_.fetch_add(1);
    Arena arena(scratch_ + worker * Scratch<T>::room(s_, panels_));
    Scratch<T> w(arena, s_, panels_);
    for (int64_t item; (item = next_item_.fetch_add(1)) < s_.items();) {
      int64_t segment = item / s_.families, family = item % s_.families;
      int64_t k0 = segment * s_.segment, k1 = std::min(p_.time.extent, k0 + s_.segment);
      if (s_.reduce == Reduce::Lanes)
        std::memset(static_cast<void *>(w.sums), 0, size_t(Scratch<T>::sums_count(s_)) * sizeof(Sum));
      for (int64_t member = 0; member < s_.family_groups; ++member) {
        Place place = place_of(p_, s_, family, member);
        int64_t group = family * s_.family_groups + member;
        if (s_.reduce == Reduce::Time) std::fill(w.sums, w.sums + s_.lanes, Sum{});
        walk(w, place, group, segment, k0, k1);
        if (s_.reduce == Reduce::Time)
          std::copy(w.sums, w.sums + s_.lanes, slots_ + (group * s_.segments + segment) * s_.lanes);
      }
      if (s_.reduce == Reduce::Lanes) {
        Place place = place_of(p_, s_, family, 0);
        store_sums(w, place, lanes_at(place), k0, k1);
      }
    }
  }

  void walk(Scratch<T> &w, const Place &place, int64_t group, int64_t segment, int64_t k0, int64_t k1) {
    const int64_t lanes = lanes_at(place);
    const bool first = segment == 0, last = segment == s_.segments - 1;
    if (first) {
      load_state(s_.backward ? SCANLIB_GRAD_FINAL : SCANLIB_H0, place, lanes, w.state);
      step_through(w, place, lanes, k0, k1);
      if (!last) publish(group, segment, lanes, w.state);
    } else if (last) {
      receive(group, segment - 1, lanes, w.state);
      step_through(w, place, lanes, k0, k1);
    } else {
      summarize(w, place, lanes, k0, k1);
      receive(group, segment - 1, lanes, w.state);
      // The carry out. Where the product or the local state overflowed, a serial loop may have been spared an Inf or an
      // Inf * 0: there the carry is the state that the walk itself ends in.
      bool safe = true;
      for (int64_t j = 0; j < lanes; ++j) {
        T carry = applied<Scalars<T>>({w.product[j], w.lost[j]}, w.state[j], w.local[j]);
        bool good = finite(w.product[j]) && finite(w.local[j]) && finite(carry);
        w.local[j] = good ? carry : not_a_number(w.local);
        safe = safe && good;
      }
      if (safe) publish(group, segment, lanes, w.local);
      step_through(w, place, lanes, k0, k1);
      for (int64_t j = 0; j < lanes; ++j) {
        if (!finite(w.local[j])) w.local[j] = w.state[j];
        // The other way round, the walk overflowed and then met a = 0, which the product forgot: see repair().
        if (!finite(w.state[j]) && finite(w.local[j])) broken_.store(true, std::memory_order_relaxed);
      }
      std::memcpy(static_cast<void *>(ends_ + (group * s_.segments + segment) * s_.lanes), w.state,
                  size_t(lanes) * sizeof(T));
      if (!safe) publish(group, segment, lanes, w.local);
    }
    if (last) finish(w, place, lanes);
  }

  // A sequence whose walk ended a segment in NaN or Inf, while the carry passed on was finite, goes on from there as a serial
  // loop would: it never becomes finite again. Elements are taken one by one; this is rare enough.
  void repair() {
    for (int64_t group = 0; group < s_.groups; ++group) {
      const int64_t family = group / s_.family_groups, member = group % s_.family_groups;
      const Place place = place_of(p_, s_, family, member);
      for (int64_t j = 0; j < lanes_at(place); ++j)
        for (int64_t segment = 1; segment < s_.segments - 1; ++segment) {
          const int64_t at = (group * s_.segments + segment) * s_.lanes + j;
          if (!finite(carries_[at]) || finite(ends_[at])) continue;
          repair_from(group, place, j, (segment + 1) * s_.segment, ends_[at]);
          break;
        }
    }
  }

  T element(const Stream &s, int64_t k, int64_t lane) const {
    T value;
    kernels_.widen[s.dtype](1, s.at(k, lane), 0, &value);
    return value;
  }
  void set_element(const Stream &s, int64_t k, int64_t lane, T value) const {
    kernels_.narrow[s.dtype](1, &value, s.at(k, lane), 0);
  }

  void repair_from(int64_t group, const Place &place, int64_t lane, int64_t k0, T state) {
    const Stream a = stream(SCANLIB_A, place), h = stream(SCANLIB_H, place);
    if (!s_.backward) {
      const Stream x = stream(SCANLIB_X, place);  // in place, what h was: as finite as x, and no more than that matters
      for (int64_t k = k0; k < p_.time.extent; ++k) {
        state = mul_add(element(a, k, lane), state, element(x, k, lane));
        set_element(h, k, lane, state);
      }
      if (given(p_, SCANLIB_FINAL)) set_element(stream(SCANLIB_FINAL, place), 0, lane, state);
      return;
    }
    const Stream g = stream(SCANLIB_GRAD_H, place), grad_x = stream(SCANLIB_GRAD_X, place);
    const Stream grad_a = stream(SCANLIB_GRAD_A, place), h0 = stream(SCANLIB_H0, place);
    auto conjugate = [&](T value) { return conjugate_ ? conjugated(value) : value; };
    for (int64_t k = k0; k < p_.time.extent; ++k) {
      state = mul_add(conjugate(element(a, k - 1, lane)), state, element(g, k, lane));
      set_element(grad_x, k, lane, state);
      T before{};
      if (k + 1 < p_.time.extent)
        before = element(h, k + 1, lane);
      else if (given(p_, SCANLIB_H0))
        before = element(h0, 0, lane);
      T product = mul_add(state, conjugate(before), T{});
      if (s_.reduce == Reduce::Time) {
        Sum sum;
        static_cast<const Kernels<Sum> &>(instruction_set()).widen[TypeOf<T>::dtype](1, &product, 0, &sum);
        add(slots_[(group * s_.segments + k / s_.segment) * s_.lanes + lane], sum);
      } else {
        bool shared = s_.reduce == Reduce::Lanes;
        set_element(grad_a, k, lane, shared ? mul_add(unit(&product), element(grad_a, k, lane), product) : product);
      }
    }
    if (given(p_, SCANLIB_GRAD_H0)) {
      T factor = conjugate(element(a, p_.time.extent - 1, lane));
      set_element(stream(SCANLIB_GRAD_H0, place), 0, lane, mul_add(factor, state, T{}));
    }
  }

  void step_through(Scratch<T> &w, const Place &place, int64_t lanes, int64_t k0, int64_t k1) {
    reach_pages(place, lanes, k0, k1);
    if (s_.backward)
      backward(w, place, lanes, k0, k1, w.state);
    else
      forward(w, place, lanes, k0, k1, w.state);
  }

  void finish(Scratch<T> &w, const Place &place, int64_t lanes) {
    if (!s_.backward) return store_state(SCANLIB_FINAL, place, lanes, w.state);
    if (!given(p_, SCANLIB_GRAD_H0)) return;
    Stream a = stream(SCANLIB_A, place);
    kernels_.widen[a.dtype](lanes, a.at(p_.time.extent - 1, 0), a.lane, w.edge);
    for (int64_t j = 0; j < lanes; ++j)
      w.edge[j] = mul_add(conjugate_ ? conjugated(w.edge[j]) : w.edge[j], w.state[j], T{});
    store_state(SCANLIB_GRAD_H0, place, lanes, w.edge);
  }

  void publish(int64_t group, int64_t segment, int64_t lanes, const T *carry) {
    int64_t at = group * s_.segments + segment;
    std::memcpy(static_cast<void *>(carries_ + at * s_.lanes), carry, size_t(lanes) * sizeof(T));
    ready_[at].store(1, std::memory_order_release);
  }
  void receive(int64_t group, int64_t segment, int64_t lanes, T *carry) {
    int64_t at = group * s_.segments + segment;
    for (Backoff backoff; !ready_[at].load(std::memory_order_acquire);) backoff.wait();
    std::memcpy(static_cast<void *>(carry), carries_ + at * s_.lanes, size_t(lanes) * sizeof(T));
  }

  bool conjugate_ = false, panels_ = false;
  int workers_ = 1;
  char *scratch_ = nullptr;
  T *carries_ = nullptr;  // [group][segment][lane]: passed on
  T *ends_ = nullptr;     // the same: the state the walk ended in; set between the first and the last segment
  std::atomic<int> *ready_ = nullptr;
  Sum *slots_ = nullptr;
  Pages pages_[SCANLIB_ROLES];
  std::atomic<bool> broken_{false};
  std::atomic<int> next_worker_{0};
  std::atomic<int64_t> next_item_{0};
};

}  // namespace scanlib
