// What the XLA FFI handlers of all platforms share: from a call's buffers to a scanlib_problem and its pointers.
//
// XLA hands over dense row-major buffers. An operand may have extent 1 on any axis where the result is longer; it is
// then read with stride 0, so nothing that is broadcast is ever stored at full size.
#pragma once
#include <cstdint>
#include <string>

#include "scanlib.h"
#include "xla/ffi/api/ffi.h"

namespace scanlib {

namespace ffi = xla::ffi;

using Dims = ffi::AnyBuffer::Dimensions;

// A zero-size buffer may come as a null pointer, which to libscanlib means an absent operand.
alignas(64) inline char empty[64];

inline int32_t dtype_of(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::F16:
      return SCANLIB_F16;
    case ffi::DataType::BF16:
      return SCANLIB_BF16;
    case ffi::DataType::F32:
      return SCANLIB_F32;
    case ffi::DataType::F64:
      return SCANLIB_F64;
    case ffi::DataType::C64:
      return SCANLIB_C64;
    case ffi::DataType::C128:
      return SCANLIB_C128;
    default:
      return SCANLIB_ABSENT;
  }
}

inline std::string text_of(Dims dims) {
  std::string text = "(";
  for (size_t d = 0; d < dims.size(); ++d) text += (d ? ", " : "") + std::to_string(dims[d]);
  return text + ")";
}

// The operands of one call, on their way to a scanlib_problem.
class Call {
 public:
  Call(Dims shape, int64_t axis) : shape_(shape), axis_(axis) {
    if (shape.size() < 1 || shape.size() > SCANLIB_MAX_DIMS)
      fail("scanlib: arrays of 1 to 64 axes expected, got " + std::to_string(shape.size()));
    else if (axis < 0 || axis >= int64_t(shape.size()))
      fail("scanlib: axis " + std::to_string(axis) + " is out of range for shape " + text_of(shape));
  }

  // Extent 1 is repeated where `may_repeat`; outputs may not be, grad_a apart.
  void add(scanlib_role role, const char *name, ffi::AnyBuffer buffer, bool may_repeat) {
    add(role, name, buffer, may_repeat, false);
  }
  void add_state(scanlib_role role, const char *name, ffi::AnyBuffer buffer, bool may_repeat) {
    add(role, name, buffer, may_repeat, true);
  }

  void *operator[](scanlib_role role) const { return data_[role]; }
  const ffi::Error &error() const { return error_; }

  // Makes the problem; false where that failed and error() says why.
  bool prepare(scanlib_problem *problem, bool reverse) {
    if (error_.failure()) return false;
    check(scanlib_problem_init(problem, reverse ? SCANLIB_REVERSE : 0, int32_t(shape_.size()), shape_.begin(),
                               int32_t(axis_), operands_));
    return error_.success();
  }

  void fail(const std::string &message) { error_ = ffi::Error::InvalidArgument(message); }
  void check(int status) {
    if (status == SCANLIB_OK) return;
    std::string message = std::string("scanlib: ") + scanlib_status_string(status);
    if (status >= SCANLIB_E_NO_GPU) message += std::string(": ") + scanlib_cuda_last_error();
    fail(message);
  }

 private:
  void add(scanlib_role role, const char *name, ffi::AnyBuffer buffer, bool may_repeat, bool state) {
    if (error_.failure()) return;
    const size_t ndim = shape_.size();
    Dims dims = buffer.dimensions();
    const int32_t dtype = dtype_of(buffer.element_type());
    if (dtype == SCANLIB_ABSENT) return fail(std::string("scanlib: ") + name + " has a dtype that is not supported");
    bool fits = dims.size() + state == ndim;
    int64_t step = 1;
    for (size_t i = dims.size(); fits && i-- > 0;) {
      const size_t d = i + (state && int64_t(i) >= axis_);
      const bool repeated = dims[i] != shape_[d];
      fits = !repeated || (may_repeat && dims[i] == 1);
      strides_[role][d] = repeated ? 0 : step;
      step *= dims[i] > 1 ? dims[i] : 1;
    }
    if (!fits)
      return fail(std::string("scanlib: ") + name + " has shape " + text_of(dims) + ", which does not fit shape " +
                  text_of(shape_) + " with time on axis " + std::to_string(axis_));
    if (state) strides_[role][axis_] = 0;
    operands_[role] = scanlib_operand{dtype, 0, strides_[role]};
    data_[role] = buffer.untyped_data() ? buffer.untyped_data() : empty;
  }

  Dims shape_;
  int64_t axis_;
  ffi::Error error_ = ffi::Error::Success();
  scanlib_operand operands_[SCANLIB_ROLES] = {};
  int64_t strides_[SCANLIB_ROLES][SCANLIB_MAX_DIMS];
  void *data_[SCANLIB_ROLES] = {};
};

// (a, x, [h0]) -> (h, [final], scratch...), where `own` results at the end belong to the platform. Calls run(call, problem).
template <class Run>
ffi::Error forward(ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t axis, bool reverse, size_t own, Run run) {
  if (args.size() < 2 || args.size() > 3 || rets.size() < 1 + own || rets.size() > 2 + own)
    return ffi::Error::InvalidArgument("scanlib: forward takes (a, x, [h0]) and gives (h, [final])");
  auto arg = [&](size_t i) { return *args.get<ffi::AnyBuffer>(i); };
  auto ret = [&](size_t i) { return **rets.get<ffi::AnyBuffer>(i); };
  Call call(ret(0).dimensions(), axis);
  call.add(SCANLIB_A, "a", arg(0), true);
  call.add(SCANLIB_X, "x", arg(1), true);
  call.add(SCANLIB_H, "h", ret(0), false);
  if (args.size() == 3) call.add_state(SCANLIB_H0, "h0", arg(2), true);
  if (rets.size() == 2 + own) call.add_state(SCANLIB_FINAL, "final", ret(1), false);
  scanlib_problem problem;
  if (call.prepare(&problem, reverse)) run(call, problem);
  return call.error();
}

// (a, h, grad_h, [h0], [grad_final]) -> (grad_a, grad_x, [grad_h0]); h0 is given exactly where grad_h0 is wanted.
template <class Run>
ffi::Error backward(ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t axis, bool reverse, size_t own, Run run) {
  const bool has_h0 = rets.size() == 3 + own;
  const size_t fixed = 3 + has_h0;
  if (rets.size() < 2 + own || rets.size() > 3 + own || args.size() < fixed || args.size() > fixed + 1)
    return ffi::Error::InvalidArgument(
        "scanlib: backward takes (a, h, grad_h, [h0], [grad_final]) and gives (grad_a, grad_x, [grad_h0])");
  auto arg = [&](size_t i) { return *args.get<ffi::AnyBuffer>(i); };
  auto ret = [&](size_t i) { return **rets.get<ffi::AnyBuffer>(i); };
  Call call(ret(1).dimensions(), axis);
  call.add(SCANLIB_A, "a", arg(0), true);
  call.add(SCANLIB_H, "h", arg(1), true);
  call.add(SCANLIB_GRAD_H, "grad_h", arg(2), true);
  call.add(SCANLIB_GRAD_A, "grad_a", ret(0), true);
  call.add(SCANLIB_GRAD_X, "grad_x", ret(1), false);
  if (has_h0) {
    call.add_state(SCANLIB_H0, "h0", arg(3), true);
    call.add_state(SCANLIB_GRAD_H0, "grad_h0", ret(2), false);
  }
  if (args.size() > fixed) call.add_state(SCANLIB_GRAD_FINAL, "grad_final", arg(fixed), true);
  scanlib_problem problem;
  if (call.prepare(&problem, reverse)) run(call, problem);
  return call.error();
}

}  // namespace scanlib
