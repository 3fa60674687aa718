// The operands of a problem as the inner loops take them: where they lie if they fit, else by way of a panel in cache.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "arithmetic.h"
#include "dispatch.h"
#include "kernels.h"
#include "problem.h"
#include "schedule.h"
#include "scratch.h"

namespace scanlib {

// One operand of one group, in the order of the steps: element (step k, lane j) lies at first + k * step + j * lane, in bytes.
struct Stream {
  char *first;
  int64_t step, lane, size;
  int32_t dtype;
  bool direct;  // the inner loops can use it where it lies

  char *at(int64_t k, int64_t j) const { return first + k * step + j * lane; }
  // Of what is direct, in elements.
  int64_t step_elements() const { return step / size; }
  int64_t lane_elements() const { return lane / size; }
};

struct Pointers {
  char *of[SCANLIB_ROLES];
};

template <class T>
class Operands {
 public:
  Operands(const scanlib_problem &problem, const Schedule &schedule, const Pointers &data)
      : p_(problem), s_(schedule), data_(data), convert_(instruction_set()) {
    for (int role = 0; role < SCANLIB_ROLES; ++role)
      loadable_[role] = p_.dtype[role] == TypeOf<T>::dtype && aligned(role);
  }

  bool has(int role) const { return given(p_, role); }
  bool same(int role, int other) const { return data_.of[role] == data_.of[other]; }
  // Lanes of a group.
  int64_t lanes(const Place &place) const { return std::min(s_.lanes, p_.inner.extent - place.chunk * s_.lanes); }

  Stream stream(int role, const Place &place) const {
    const int64_t size = dtype_size(p_.dtype[role]), lane = p_.inner.stride[role];
    int64_t offset = place.chunk * s_.lanes * lane;
    for (int d = 0; d < p_.outer_rank; ++d) offset += place.outer[d] * p_.outer[d].stride[role];
    int64_t step = is_state(role) ? 0 : p_.time.stride[role];
    if (against_time(p_)) {
      offset += (p_.time.extent - 1) * step;
      step = -step;
    }
    bool in_shape = s_.rows ? step == (s_.down ? -size : size) : lane == size;
    if (s_.rows && role == SCANLIB_X && same(SCANLIB_X, SCANLIB_H)) in_shape = false;  // read twice
    if (role == SCANLIB_GRAD_A && s_.reduce != Reduce::None) in_shape = false;
    return {data_.of[role] + offset, step, lane, size, p_.dtype[role], in_shape && loadable_[role]};
  }

  // The state of a segment; of all there is where there are no offsets, number 0.
  Stream state(int role, const Place &place, int64_t segment) const {
    Stream s = stream(role, place);
    s.first += segment * p_.time.stride[role];
    return s;
  }
  // Of some lanes of a group, from number `first` on; `absent` where it is not given.
  void load_state(int role, const Place &place, int64_t segment, int64_t first, int64_t lanes, T *to, T absent) const {
    if (!given(p_, role)) return void(std::fill(to, to + lanes, absent));
    load_step(state(role, place, segment), 0, first, lanes, to);
  }
  void load_step(const Stream &s, int64_t k, int64_t first, int64_t lanes, T *to) const {
    convert_.widen[s.dtype](lanes, s.at(k, first), s.lane, to);
  }
  void store_state(int role, const Place &place, int64_t segment, int64_t first, int64_t lanes, const T *from) const {
    if (!given(p_, role)) return;
    Stream s = state(role, place, segment);
    convert_.narrow[s.dtype](lanes, from, s.at(0, first), s.lane);
  }

  T element(const Stream &s, int64_t k, int64_t lane) const {
    T value;
    convert_.widen[s.dtype](1, s.at(k, lane), 0, &value);
    return value;
  }
  void set_element(const Stream &s, int64_t k, int64_t lane, T value) const {
    convert_.narrow[s.dtype](1, &value, s.at(k, lane), 0);
  }

  // What an inner loop is given for steps [k, k + n): the operand itself, or a copy in `panel`.
  struct Source {
    T *data;
    int64_t step;
  };
  Source columns_in(const Stream &s, int64_t k, int64_t n, int64_t lanes, T *panel) const {
    if (s.direct) return {reinterpret_cast<T *>(s.at(k, 0)), s.step_elements()};
    if (s.step == 0) n = 1;
    for (int64_t i = 0; i < n; ++i) convert_.widen[s.dtype](lanes, s.at(k + i, 0), s.lane, panel + i * lanes);
    return {panel, s.step == 0 ? 0 : lanes};
  }
  Source columns_out(const Stream &s, int64_t k, int64_t lanes, T *panel) const {
    if (s.direct) return {reinterpret_cast<T *>(s.at(k, 0)), s.step_elements()};
    return {panel, lanes};
  }
  void columns_flush(const Stream &s, int64_t k, int64_t n, int64_t lanes, const T *panel) const {
    if (s.direct) return;
    for (int64_t i = 0; i < n; ++i) convert_.narrow[s.dtype](lanes, panel + i * lanes, s.at(k + i, 0), s.lane);
  }
  // Rows lie by address: where steps run down, the lowest address is the last step's.
  char *row(const Stream &s, int64_t k, int64_t n, int64_t lane) const { return s.at(s_.down ? k + n - 1 : k, lane); }
  T *direct_row(const Stream &s, int64_t k, int64_t n, int64_t lane) const {
    return reinterpret_cast<T *>(row(s, k, n, lane));
  }
  // `panel` holds steps of this operand alone.
  T *row_in(const Stream &s, int64_t k, int64_t n, int64_t lane, Panel<T> &panel) const {
    if (s.direct) return direct_row(s, k, n, lane);
    const char *const first = row(s, k, n, lane);
    if (s.step == 0 && panel.repeats == first && panel.count >= n) return panel.data;
    convert_.widen[s.dtype](n, first, s_.down ? -s.step : s.step, panel.data);
    panel.repeats = s.step == 0 ? first : nullptr;
    panel.count = n;
    return panel.data;
  }
  T *row_out(const Stream &s, int64_t k, int64_t n, int64_t lane, T *panel) const {
    return s.direct ? direct_row(s, k, n, lane) : panel;
  }
  void row_flush(const Stream &s, int64_t k, int64_t n, int64_t lane, const T *panel) const {
    if (!s.direct) convert_.narrow[s.dtype](n, panel, row(s, k, n, lane), s_.down ? -s.step : s.step);
  }

  // From the lowest to the highest element of an operand, and the bytes of its elements in between.
  struct Span {
    char *begin, *end;
    int64_t filled;

    int64_t room() const { return end - begin; }
  };
  Span span(int role) const {
    const int64_t size = dtype_size(p_.dtype[role]);
    int64_t low = 0, high = 0, count = 1;
    auto extend = [&](const scanlib_axis &axis) {
      const int64_t stride = axis.stride[role];
      (stride < 0 ? low : high) += stride * (axis.extent - 1);
      if (stride != 0) count *= axis.extent;
    };
    extend(p_.time);
    extend(p_.inner);
    for (int d = 0; d < p_.outer_rank; ++d) extend(p_.outer[d]);
    return {data_.of[role] + low, data_.of[role] + high + size, count * size};
  }

 private:
  // Whether every element lies where the processor may have one of T, whole elements apart.
  bool aligned(int role) const {
    if (reinterpret_cast<uintptr_t>(data_.of[role]) % alignof(T)) return false;
    int64_t strides = p_.time.stride[role] | p_.inner.stride[role];
    for (int d = 0; d < p_.outer_rank; ++d) strides |= p_.outer[d].stride[role];
    return strides % int64_t(sizeof(T)) == 0;
  }

  const scanlib_problem &p_;
  const Schedule &s_;
  const Pointers &data_;
  const Conversions<T> &convert_;
  bool loadable_[SCANLIB_ROLES];  // of the dtype T, and aligned
};

}  // namespace scanlib
