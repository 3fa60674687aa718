// The sums of grad_a where `a` was broadcast, in float64 and in an order that depends on the problem alone (Reduce, schedule.h).
#pragma once
#include <algorithm>
#include <cstring>

#include "operands.h"
#include "scratch.h"

namespace scanlib {

// Reduce::Lanes keeps a sum for each step of the segment and each lane that grad_a has: [step][lane] for columns, [lane][by
// address] for rows. Reduce::Time keeps one a lane for each piece of work, and adds these slots up at the end.
template <class T>
class GradSums {
 public:
  using Sum = typename SumOf<T>::type;

  GradSums(const scanlib_problem &problem, const Schedule &schedule, const Operands<T> &operands)
      : p_(problem), s_(schedule), operands_(operands), convert_(instruction_set()) {
    slot_count_ = s_.reduce == Reduce::Time ? s_.groups * s_.segments * s_.lanes : 0;
    kept_count_ = s_.reduce == Reduce::Time ? kept_count(p_) : 0;
  }
  int64_t room() const { return Arena::room<Sum>(slot_count_) + Arena::room<Sum>(kept_count_); }
  void open(Arena &arena) {
    slots_ = arena.take<Sum>(slot_count_);
    total_ = arena.take<Sum>(kept_count_);
  }

  // Into a thread's sums: grad_a's values of n steps, of which the first is number k of a segment of `length`.
  void add_columns(Sum *sums, int64_t k, int64_t n, int64_t lanes, const T *values) const {
    if (s_.reduce == Reduce::Time)
      convert_.sum_steps(n, lanes, values, lanes, sums);
    else if (!lanes_summed())
      convert_.sum_steps(1, n * lanes, values, 0, sums + k * lanes);
    else
      for (int64_t i = 0; i < n; ++i) add(sums[k + i], convert_.total(lanes, values + i * lanes));
  }
  void add_row(Sum *sums, int64_t lane, int64_t k, int64_t n, int64_t length, const T *values) const {
    if (s_.reduce == Reduce::Time) return add(sums[lane], convert_.total(n, values));
    int64_t at = s_.down ? length - k - n : k;
    convert_.sum_steps(1, n, values, 0, sums + (lanes_summed() ? 0 : lane * s_.segment) + at);
  }

  // Before and after the groups of a piece of work, [k0, k1) being its steps; before and after each of these groups.
  void begin(Sum *sums) const {
    if (s_.reduce == Reduce::Lanes) std::fill(sums, sums + reduced_sums(s_), Sum{});
  }
  void begin_group(Sum *sums) const {
    if (s_.reduce == Reduce::Time) std::fill(sums, sums + reduced_sums(s_), Sum{});
  }
  void end_group(const Sum *sums, int64_t group, int64_t segment) {
    if (s_.reduce == Reduce::Time) std::copy(sums, sums + reduced_sums(s_), slot(group, segment));
  }
  void end(const Sum *sums, int64_t family, int64_t k0, int64_t k1) const {
    if (s_.reduce != Reduce::Lanes) return;
    const Place place = place_of(p_, s_, family, 0);
    const Stream grad_a = operands_.stream(SCANLIB_GRAD_A, place);
    const int64_t kept = lanes_summed() ? 1 : operands_.lanes(place), length = k1 - k0;
    for (int64_t k = k0; k < k1; ++k)
      for (int64_t j = 0; j < kept; ++j) {
        int64_t at = s_.rows ? j * s_.segment + (s_.down ? length - 1 - (k - k0) : k - k0) : (k - k0) * kept + j;
        store(sums[at], grad_a.dtype, grad_a.at(k, j));
      }
  }

  // One more value, after end_group().
  void add_late(int64_t group, int64_t segment, int64_t lane, T value) {
    Sum sum;
    static_cast<const Conversions<Sum> &>(instruction_set()).widen[TypeOf<T>::dtype](1, &value, 0, &sum);
    add(slot(group, segment)[lane], sum);
  }

  // Adds up the slots, in order, and writes grad_a.
  void finish() {
    if (s_.reduce != Reduce::Time) return;
    std::fill(total_, total_ + kept_count_, Sum{});
    for (int64_t group = 0; group < s_.groups; ++group) {
      Place place = place_of(p_, s_, group, 0);
      Sum *target = total_ + kept_index(p_, s_, place);
      int64_t lanes = operands_.lanes(place);
      for (int64_t segment = 0; segment < s_.segments; ++segment)
        for (int64_t j = 0; j < lanes; ++j) add(target[lanes_summed() ? 0 : j], slot(group, segment)[j]);
    }
    for (int64_t group = 0; group < s_.groups; ++group) {  // groups that share elements write the same sums again
      Place place = place_of(p_, s_, group, 0);
      const Stream grad_a = operands_.stream(SCANLIB_GRAD_A, place);
      const Sum *from = total_ + kept_index(p_, s_, place);
      int64_t lanes = lanes_summed() ? 1 : operands_.lanes(place);
      for (int64_t j = 0; j < lanes; ++j) store(from[j], grad_a.dtype, grad_a.at(0, j));
    }
  }

 private:
  bool lanes_summed() const { return p_.inner.extent > 1 && p_.inner.stride[SCANLIB_GRAD_A] == 0; }
  Sum *slot(int64_t group, int64_t segment) const { return slots_ + (group * s_.segments + segment) * s_.lanes; }
  void store(Sum sum, int32_t dtype, char *to) const {
    static_cast<const Conversions<Sum> &>(instruction_set()).narrow[dtype](1, &sum, to, 0);
  }

  const scanlib_problem &p_;
  const Schedule &s_;
  const Operands<T> &operands_;
  const Conversions<T> &convert_;
  int64_t slot_count_, kept_count_;
  Sum *slots_ = nullptr;  // [group][segment][lane]
  Sum *total_ = nullptr;  // of grad_a's own elements without time
};

}  // namespace scanlib
