// OFFSETS of scanlib.h: where sequences start inside the time axis, all lanes together.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "problem.h"

namespace scanlib {

// Offsets in the order of a walk: segment j of it is the steps from at(j) up to at(j + 1).
class Offsets {
 public:
  Offsets(const scanlib_problem &p, const void *first) : Offsets(p, first, against_time(p)) {}
  Offsets(const scanlib_problem &p, const void *first, bool against)
      : first_(static_cast<const char *>(first)),
        stride_(p.time.stride[SCANLIB_OFFSETS]),
        count_(p.segments),
        steps_(p.time.extent),
        wide_(p.dtype[SCANLIB_OFFSETS] == SCANLIB_I64),
        against_(against) {}

  bool valid() const {
    bool good = given(0) == 0 && given(count_) == steps_;
    for (int64_t i = 0; i < count_ && good; ++i) good = given(i) <= given(i + 1);
    return good;
  }
  int64_t at(int64_t j) const { return against_ ? steps_ - given(count_ - j) : given(j); }
  // Which of the states is that of segment j.
  int64_t number(int64_t j) const { return against_ ? count_ - 1 - j : j; }

  // The segments that start before step k: those from `empty` up to `own` have no steps, and number `own` has step k. At the end there
  // is none of that number.
  struct Here {
    int64_t empty, own;
  };
  Here here(int64_t k) const { return {first_from(k), first_from(k + 1) - 1}; }
  // The segment that step k is one of, and its first step.
  int64_t of(int64_t k) const { return here(k).own; }
  int64_t start_of(int64_t k) const { return at(of(k)); }
  // The first start before a step in [k, end), or `end`.
  int64_t next(int64_t k, int64_t end) const {
    const int64_t j = first_from(k);
    return j > count_ ? end : std::min(end, at(j));
  }

 private:
  // The first j where at(j) >= k.
  int64_t first_from(int64_t k) const {
    int64_t low = 0, high = count_ + 1;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (at(middle) < k)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
  int64_t given(int64_t i) const {
    const char *at = first_ + i * stride_;
    if (wide_) return load<int64_t>(at);
    return load<int32_t>(at);
  }
  template <class I>
  static I load(const char *at) {
    I value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }

  const char *first_;
  int64_t stride_, count_, steps_;
  bool wide_, against_;
};

}  // namespace scanlib
