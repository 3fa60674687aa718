// The pages of a problem's large outputs (pages.h): which are asked for, and who fetches them.
#pragma once
#include <algorithm>
#include <iterator>

#include "operands.h"
#include "pages.h"
#include "scratch.h"

namespace scanlib {

template <class T>
class OutputPages {
 public:
  OutputPages(const Schedule &schedule, const Operands<T> &operands) : s_(schedule), operands_(operands) {}

  int64_t room(int workers) const {
    int64_t room = 0;
    for (int role : kLargeOutputs) room += Arena::room<Pages::Mark>(shared(role, workers));
    return room;
  }
  void open(Arena &arena, int workers) {
    for (int role : kLargeOutputs) {
      if (!written(role)) continue;
      const auto whole = operands_.span(role);
      if (whole.room() > 2 * whole.filled) continue;  // scattered over memory that is not ours to judge
      Pages::advise(whole.begin, whole.end);
      if (int64_t count = shared(role, workers))
        pages_[role].watch(whole.begin, whole.end, arena.take<Pages::Mark>(count));
    }
  }
  // Before steps [k0, k1) of a group are written.
  void reach(const Place &place, int64_t lanes, int64_t k0, int64_t k1) {
    for (int role : kLargeOutputs) {
      if (!pages_[role].watched()) continue;
      const Stream s = operands_.stream(role, place);
      const char *corners[] = {s.at(k0, 0), s.at(k1 - 1, 0), s.at(k0, lanes - 1), s.at(k1 - 1, lanes - 1)};
      const auto [low, high] = std::minmax_element(std::begin(corners), std::end(corners));
      pages_[role].reach(*low, *high + s.size, s.step < 0);
    }
  }

 private:
  static constexpr int kLargeOutputs[] = {SCANLIB_H, SCANLIB_GRAD_X, SCANLIB_GRAD_A};

  bool written(int role) const { return operands_.has(role) && kRoleTraits[role].plain[s_.backward] & SCANLIB_WRITTEN; }
  // How many pages of an output several threads will be in at the same time: where time is split, neighbours in time are.
  int64_t shared(int role, int workers) const {
    if (workers == 1 || s_.segments == 1 || !written(role)) return 0;
    if (role == SCANLIB_GRAD_A && s_.reduce != Reduce::None) return 0;
    if (role == SCANLIB_H && operands_.same(SCANLIB_X, SCANLIB_H)) return 0;  // in place: it holds x
    const auto whole = operands_.span(role);
    return whole.room() == whole.filled ? Pages::count(whole.begin, whole.end) : 0;
  }

  const Schedule &s_;
  const Operands<T> &operands_;
  Pages pages_[SCANLIB_ROLES];
};

}  // namespace scanlib
