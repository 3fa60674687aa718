// Memory that a call works in, taken in one piece.
#pragma once
#include <algorithm>
#include <cstdint>

#include "arithmetic.h"
#include "kernels.h"
#include "schedule.h"

namespace scanlib {

constexpr int64_t kPanel = 2048;  // elements of a panel: a few of them fit an L1 cache

// Memory for a call, cut into pieces: counted first, then handed out.
class Arena {
 public:
  template <class V>
  static int64_t room(int64_t count) {
    return (count * int64_t(sizeof(V)) + 63) / 64 * 64;
  }
  explicit Arena(char *base) : next_(base) {}
  template <class V>
  V *take(int64_t count) {
    V *piece = reinterpret_cast<V *>(next_);
    next_ += room<V>(count);
    return piece;
  }

 private:
  char *next_;
};

// Room for a stretch of an operand, and if all of that is one element, repeated: which, and how often.
template <class T>
struct Panel {
  T *data;
  const char *repeats;
  int64_t count;
};

// What one thread works in.
template <class Op>
struct Scratch {
  using T = typename Op::Element;
  Panel<T> panel[5];
  T *state, *local, *edge, *idle;
  Factors<Op> factor;
  char *bytes[2];                 // of masks that do not lie as the inner loops want them
  typename SumOf<T>::type *sums;  // Reduce::Time: one a lane; Reduce::Lanes: one an element of the segment

  static int64_t panel_count(const Schedule &s) { return s.rows ? kPanel : std::max(kPanel, s.lanes); }
  static int64_t room(const Schedule &s, bool panels) {
    return (4 + Op::kParts) * Arena::room<T>(s.lanes) + Arena::room<typename SumOf<T>::type>(reduced_sums(s)) +
           (panels ? 5 * Arena::room<T>(panel_count(s)) + 2 * Arena::room<char>(panel_count(s)) : 0);
  }
  Scratch(Arena &arena, const Schedule &s, bool panels) {
    for (Panel<T> &p : panel) p = {panels ? arena.take<T>(panel_count(s)) : nullptr, nullptr, 0};
    for (T **p : {&state, &local, &edge, &idle}) *p = arena.take<T>(s.lanes);
    for (T *&p : factor.part) p = arena.take<T>(s.lanes);
    for (char *&b : bytes) b = panels ? arena.take<char>(panel_count(s)) : nullptr;
    sums = arena.take<typename SumOf<T>::type>(reduced_sums(s));
    std::fill(idle, idle + s.lanes, Op::idle());
  }
};

}  // namespace scanlib
