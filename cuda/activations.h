// The arithmetic of gates, for the CPU's vectors and for device code alike, over functions `A` on numbers or on vectors of them: A::V,
// A::number(v), A::sigmoid(v), A::tanh(v), A::expm1(v) for v <= 0.
#pragma once
#include "numbers.h"

namespace scanlib {

// What a candidate goes through: its value, and its slope by the value before. In the order of scanlib_candidate.
struct Identity {
  template <class A>
  static SCANLIB_BOTH typename A::V value(typename A::V v) {
    return v;
  }
  template <class A>
  static SCANLIB_BOTH typename A::V slope(typename A::V, typename A::V) {
    return A::number(1);
  }
};
struct Tanh {
  template <class A>
  static SCANLIB_BOTH typename A::V value(typename A::V v) {
    return A::tanh(v);
  }
  template <class A>
  static SCANLIB_BOTH typename A::V slope(typename A::V, typename A::V value) {
    return A::number(1) - value * value;
  }
};
struct Elu {
  template <class A>
  static SCANLIB_BOTH typename A::V value(typename A::V v) {
    return v > typename A::V{} ? v : A::expm1(v > typename A::V{} ? typename A::V{} : v);
  }
  template <class A>
  static SCANLIB_BOTH typename A::V slope(typename A::V v, typename A::V value) {
    return v > typename A::V{} ? A::number(1) : value + A::number(1);
  }
};
// minGRU's way to a candidate above zero (Feng et al. 2024, B.2).
struct Positive {
  template <class A>
  static SCANLIB_BOTH typename A::V value(typename A::V v) {
    return v >= typename A::V{} ? v + A::number(0.5) : A::sigmoid(v);
  }
  template <class A>
  static SCANLIB_BOTH typename A::V slope(typename A::V v, typename A::V value) {
    return v >= typename A::V{} ? A::number(1) : value * (A::number(1) - value);
  }
};

// A step of a gated recurrence: h = f h_before + i z, with f = sigmoid(sign * column), i = sigmoid(column) or 1 - f, z = candidate(column),
// and the gradients of the columns.
template <class A>
struct GateStep {
  using V = typename A::V;
  struct Grads {
    V decay, input, candidate;
  };

  static SCANLIB_BOTH V decay(V column, V sign) { return A::sigmoid(sign * column); }
  // From `grad`, the gradient of what enters, i z, and `through`, that of f, so far as it comes from the state before.
  static SCANLIB_BOTH Grads columns(V grad, V through, V f, V sign, bool own_input, V i, V z, V slope) {
    const V one = A::number(1), grad_f = own_input ? through : through - grad * z;
    return {grad_f * (sign * f * (one - f)), grad * z * (i * (one - i)), grad * i * slope};
  }
  // y = o h, o = sigmoid(column): the gradient of that column.
  static SCANLIB_BOTH V output(V grad_y, V h, V o) { return grad_y * h * (o * (A::number(1) - o)); }
};

}  // namespace scanlib
