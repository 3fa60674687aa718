// What the XLA FFI handlers of all platforms share: from a call's buffers to a scanlib_problem and its pointers.
//
// XLA hands over dense row-major buffers, of which an operand may be a view (backends/_jax_views.py). An operand may have
// extent 1 on any axis where the result is longer; it is then read with stride 0, so nothing that is broadcast is ever stored
// at full size.
#pragma once
#include <cstdint>
#include <string>

#include "scanlib.h"
#include "xla/ffi/api/ffi.h"

namespace scanlib {

namespace ffi = xla::ffi;

using Dims = ffi::AnyBuffer::Dimensions;
using Views = ffi::Span<const int64_t>;

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

// Where an operand lies in its buffer. Strides are null where it is the whole, dense buffer.
struct View {
  Dims dims;
  int64_t offset;
  const int64_t *strides;
};

// The operands of one call, on their way to a scanlib_problem.
class Call {
 public:
  // `views` is empty, or has for each argument in turn: its number of axes, first element, extents, strides.
  Call(Dims shape, int64_t axis, ffi::RemainingArgs args, Views views) : shape_(shape), axis_(axis), args_(args) {
    if (shape.size() < 1 || shape.size() > SCANLIB_MAX_DIMS)
      fail("scanlib: arrays of 1 to 64 axes expected, got " + std::to_string(shape.size()));
    else if (axis < 0 || axis >= int64_t(shape.size()))
      fail("scanlib: axis " + std::to_string(axis) + " is out of range for shape " + text_of(shape));
    for (size_t at = 0; at < views.size();) {
      const int64_t left = int64_t(views.size() - at), ndim = views[at];
      if (view_count_ == kMostArguments || ndim < 0 || ndim > SCANLIB_MAX_DIMS || left < 2 + 2 * ndim) break;
      const int64_t *extents = views.begin() + at + 2;
      views_[view_count_++] = {Dims(extents, size_t(ndim)), views[at + 1], extents + ndim};
      at += size_t(2 + 2 * ndim);
    }
    if (views.size() != 0 && view_count_ != args.size()) fail("scanlib: the views of the operands cannot be read");
  }

  // Argument number `index`. Extent 1 is repeated where the result is longer.
  void add(scanlib_role role, const char *name, size_t index) { add_argument(role, name, index, false); }
  void add_state(scanlib_role role, const char *name, size_t index) { add_argument(role, name, index, true); }

  // A result; only grad_a may be shorter.
  void add_result(scanlib_role role, const char *name, ffi::AnyBuffer buffer) {
    add(role, name, buffer, {buffer.dimensions(), 0, nullptr}, role == SCANLIB_GRAD_A, false);
  }
  void add_state_result(scanlib_role role, const char *name, ffi::AnyBuffer buffer) {
    add(role, name, buffer, {buffer.dimensions(), 0, nullptr}, false, true);
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
  static constexpr size_t kMostArguments = 8;

  void add_argument(scanlib_role role, const char *name, size_t index, bool state) {
    if (error_.failure()) return;
    ffi::AnyBuffer buffer = *args_.get<ffi::AnyBuffer>(index);
    const View view = view_count_ ? views_[index] : View{buffer.dimensions(), 0, nullptr};
    if (view.strides && !inside(buffer, view))
      return fail(std::string("scanlib: ") + name + " is a view that leaves its array of shape " +
                  text_of(buffer.dimensions()));
    add(role, name, buffer, view, true, state);
  }

  static bool inside(ffi::AnyBuffer buffer, const View &view) {
    int64_t low = view.offset, high = view.offset, count = int64_t(buffer.element_count());
    for (size_t d = 0; d < view.dims.size(); ++d) {
      int64_t reach = 0;
      if (view.dims[d] < 0) return false;
      if (view.dims[d] == 0) return true;
      if (__builtin_mul_overflow(view.strides[d], view.dims[d] - 1, &reach) ||
          __builtin_add_overflow(reach < 0 ? low : high, reach, reach < 0 ? &low : &high))
        return false;
    }
    return low >= 0 && high < count;
  }

  void add(scanlib_role role, const char *name, ffi::AnyBuffer buffer, const View &view, bool may_repeat, bool state) {
    if (error_.failure()) return;
    const size_t ndim = shape_.size();
    const Dims dims = view.dims;
    const int32_t dtype = dtype_of(buffer.element_type());
    if (dtype == SCANLIB_ABSENT) return fail(std::string("scanlib: ") + name + " has a dtype that is not supported");
    bool fits = dims.size() + state == ndim;
    int64_t step = 1;
    for (size_t i = dims.size(); fits && i-- > 0;) {
      const size_t d = i + (state && int64_t(i) >= axis_);
      const bool repeated = dims[i] != shape_[d];
      fits = !repeated || (may_repeat && dims[i] == 1);
      strides_[role][d] = repeated ? 0 : view.strides ? view.strides[i] : step;
      step *= dims[i] > 1 ? dims[i] : 1;
    }
    if (!fits)
      return fail(std::string("scanlib: ") + name + " has shape " + text_of(dims) + ", which does not fit shape " +
                  text_of(shape_) + " with time on axis " + std::to_string(axis_));
    if (state) strides_[role][axis_] = 0;
    operands_[role] = scanlib_operand{dtype, 0, strides_[role]};
    char *data = static_cast<char *>(buffer.untyped_data());
    data_[role] = data ? data + view.offset * int64_t(ffi::ByteWidth(buffer.element_type())) : empty;
  }

  Dims shape_;
  int64_t axis_;
  ffi::RemainingArgs args_;
  View views_[kMostArguments] = {};
  size_t view_count_ = 0;
  ffi::Error error_ = ffi::Error::Success();
  scanlib_operand operands_[SCANLIB_ROLES] = {};
  int64_t strides_[SCANLIB_ROLES][SCANLIB_MAX_DIMS];
  void *data_[SCANLIB_ROLES] = {};
};

// (a, x, [h0]) -> (h, [final], scratch...), where `own` results at the end belong to the platform. Calls run(call, problem).
template <class Run>
ffi::Error forward(ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t axis, bool reverse, Views views,
                   size_t own, Run run) {
  if (args.size() < 2 || args.size() > 3 || rets.size() < 1 + own || rets.size() > 2 + own)
    return ffi::Error::InvalidArgument("scanlib: forward takes (a, x, [h0]) and gives (h, [final])");
  auto ret = [&](size_t i) { return **rets.get<ffi::AnyBuffer>(i); };
  Call call(ret(0).dimensions(), axis, args, views);
  call.add(SCANLIB_A, "a", 0);
  call.add(SCANLIB_X, "x", 1);
  call.add_result(SCANLIB_H, "h", ret(0));
  if (args.size() == 3) call.add_state(SCANLIB_H0, "h0", 2);
  if (rets.size() == 2 + own) call.add_state_result(SCANLIB_FINAL, "final", ret(1));
  scanlib_problem problem;
  if (call.prepare(&problem, reverse)) run(call, problem);
  return call.error();
}

// (a, h, grad_h, [h0], [grad_final]) -> (grad_a, grad_x, [grad_h0]); h0 is given exactly where grad_h0 is wanted.
template <class Run>
ffi::Error backward(ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t axis, bool reverse, Views views,
                    size_t own, Run run) {
  const bool has_h0 = rets.size() == 3 + own;
  const size_t fixed = 3 + has_h0;
  if (rets.size() < 2 + own || rets.size() > 3 + own || args.size() < fixed || args.size() > fixed + 1)
    return ffi::Error::InvalidArgument(
        "scanlib: backward takes (a, h, grad_h, [h0], [grad_final]) and gives (grad_a, grad_x, [grad_h0])");
  auto ret = [&](size_t i) { return **rets.get<ffi::AnyBuffer>(i); };
  Call call(ret(1).dimensions(), axis, args, views);
  call.add(SCANLIB_A, "a", 0);
  call.add(SCANLIB_H, "h", 1);
  call.add(SCANLIB_GRAD_H, "grad_h", 2);
  call.add_result(SCANLIB_GRAD_A, "grad_a", ret(0));
  call.add_result(SCANLIB_GRAD_X, "grad_x", ret(1));
  if (has_h0) {
    call.add_state(SCANLIB_H0, "h0", 3);
    call.add_state_result(SCANLIB_GRAD_H0, "grad_h0", ret(2));
  }
  if (args.size() > fixed) call.add_state(SCANLIB_GRAD_FINAL, "grad_final", fixed);
  scanlib_problem problem;
  if (call.prepare(&problem, reverse)) run(call, problem);
  return call.error();
}

}  // namespace scanlib
