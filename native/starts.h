// Sequences that start inside the time axis, as a walk meets them.
//
// A start "before step k" means that the state after step k - 1 of the walk does not enter step k. The walk back takes the coefficient
// of a step one step later, and so meets the mask of a step one step later too; offsets it sees from the other end, where every
// segment starts at what was its last step.
//
// By offsets all lanes start together, as a walk of its own would: from the segment's state, with its own coefficients. By a mask each
// lane starts from nothing, which is the business of the inner loops (kernels.h).
#pragma once
#include <algorithm>

#include "offsets.h"
#include "operands.h"

namespace scanlib {

// Lanes of a group over steps [k0, k1): from lane `first` on.
struct Unit {
  const Place &place;
  int64_t first, lanes;
  int64_t k0, k1;
};

// Rows of lanes, `state` and such, begin at the unit's first lane.
template <class Op>
class Starts {
  using T = typename Op::Element;

 public:
  Starts(const scanlib_problem &problem, const Schedule &schedule, const Pointers &data, const Operands<T> &operands)
      : p_(problem),
        s_(schedule),
        operands_(operands),
        offsets_(problem, data.of[SCANLIB_OFFSETS]),
        by_mask_(operands.has(SCANLIB_RESET)),
        by_offsets_(operands.has(SCANLIB_OFFSETS)) {}

  bool by_mask() const { return by_mask_; }
  bool by_offsets() const { return by_offsets_; }

  // The first step in [k, end) before which all lanes start, or `end`.
  int64_t next(int64_t k, int64_t end) const { return by_offsets_ ? offsets_.next(k, end) : end; }
  // The same of one lane, by a mask too.
  int64_t next(const Place &place, int64_t lane, int64_t k, int64_t end) const {
    if (by_mask_)
      while (k < end && !cut(place, lane, k)) ++k;
    return by_mask_ ? k : next(k, end);
  }
  // Whether a mask says that nothing enters step k from step k - 1.
  bool cut(const Place &place, int64_t lane, int64_t k) const {
    if (!by_mask_ || k + shift() < 0) return false;
    return *operands_.stream(SCANLIB_RESET, place).at(k + shift(), lane) != 0;
  }

  // What enters step k, the first of all or one before which all lanes start.
  void enter(const Unit &u, int64_t k, T *state) const {
    load(enters(), u, by_offsets_ ? offsets_.number(offsets_.here(k).own) : 0, state);
  }
  // Stores what leaves before step k, where all lanes start or the walk ends: the state of the segment before, and of those without
  // steps what entered them. `room`: for a state.
  void leave(const Unit &u, int64_t k, const T *state, bool conjugated, T *room) const {
    if (!by_offsets_) return put(u, 0, k, state, conjugated, room);
    const auto [empty, own] = offsets_.here(k);
    if (empty > 0) put(u, offsets_.number(empty - 1), k, state, conjugated, room);
    for (int64_t j = empty; j < own; ++j) {
      load(enters(), u, offsets_.number(j), room);
      operands_.store_state(leaves(), u.place, offsets_.number(j), u.first, u.lanes, room);
    }
  }

  // Of the walk back: the states before the first step of the recurrence that step k, the last of a walk, is the last of.
  void states_behind(const Unit &u, int64_t k, T *to) const {
    load(SCANLIB_H0, u, by_offsets_ ? offsets_.number(offsets_.here(k + 1).empty - 1) : 0, to);
  }

 private:
  int shift() const { return s_.backward ? -1 : 0; }
  int enters() const { return s_.backward ? SCANLIB_GRAD_FINAL : SCANLIB_H0; }
  int leaves() const { return s_.backward ? SCANLIB_GRAD_H0 : SCANLIB_FINAL; }

  void load(int role, const Unit &u, int64_t segment, T *to) const {
    operands_.load_state(role, u.place, segment, u.first, u.lanes, to, Op::nothing());
  }
  // What is left of the state after step k - 1.
  void put(const Unit &u, int64_t segment, int64_t k, const T *state, bool conjugated, T *room) const {
    if (!operands_.has(leaves())) return;
    if constexpr (Op::kDifferentiable) {
      if (s_.backward) {
        operands_.load_step(operands_.stream(SCANLIB_A, u.place), k - 1, u.first, u.lanes, room);
        for (int64_t j = 0; j < u.lanes; ++j)
          room[j] = cut(u.place, u.first + j, k) ? T{} : Op::times(Op::adjoint(room[j], conjugated), state[j]);
        state = room;
      }
    }
    operands_.store_state(leaves(), u.place, segment, u.first, u.lanes, state);
  }

  const scanlib_problem &p_;
  const Schedule &s_;
  const Operands<T> &operands_;
  const Offsets offsets_;
  const bool by_mask_, by_offsets_;
};

}  // namespace scanlib
