// What the XLA FFI handlers of all platforms share: from a call's buffers to a scanlib_problem and its pointers.
//
// XLA hands over dense row-major buffers, of which an operand may be a view (backends/jax/views.py). An operand may have
// extent 1 on any axis where the result is longer; it is then read with stride 0, so nothing that is broadcast is ever stored
// at full size.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "problem.h"
#include "scanlib.h"
#include "xla/ffi/api/ffi.h"

namespace scanlib {

namespace ffi = xla::ffi;

using Dims = ffi::AnyBuffer::Dimensions;
using Numbers = ffi::Span<const int64_t>;

// What a program says of a call beside its buffers. `roles` are those of the arguments and of the results, in turn; `views` is
// empty, or has for each argument in turn: its number of axes, first element, extents, strides in elements. `tuning` is empty, or
// has the numbers of scanlib_tuning.
struct Attributes {
  int64_t axis;
  bool reverse;
  Numbers roles, views, tuning;
};

// A zero-size buffer may come as a null pointer, which to libscanlib means an absent operand.
alignas(64) inline const char empty[64] = {};

// SCANLIB_ABSENT where an operand of that role may not be of the type.
inline int32_t dtype_of(int role, ffi::DataType type) {
  switch (type) {
    case ffi::DataType::PRED:
      return role == SCANLIB_RESET ? SCANLIB_BOOL : SCANLIB_ABSENT;
    case ffi::DataType::S32:
      return role == SCANLIB_OFFSETS ? SCANLIB_I32 : SCANLIB_ABSENT;
    case ffi::DataType::S64:
      return role == SCANLIB_OFFSETS ? SCANLIB_I64 : SCANLIB_ABSENT;
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

// One call: its operands, on their way to a scanlib_problem. The last `own` results belong to the platform.
class Call {
 public:
  Call(ffi::RemainingArgs args, ffi::RemainingRets rets, const Attributes &attributes, size_t own)
      : axis_(attributes.axis) {
    prepare(args, rets, attributes, own);
  }

  // Only where error() is none.
  const scanlib_problem &problem() const { return problem_; }
  const void *const *pointers() const { return data_; }
  const ffi::Error &error() const { return error_; }

  void fail(const std::string &message) { error_ = ffi::Error::InvalidArgument(message); }
  void check(int status) {
    if (status == SCANLIB_OK) return;
    std::string message = std::string("scanlib: ") + scanlib_status_string(status);
    if (status >= SCANLIB_E_NO_GPU) message += std::string(": ") + scanlib_cuda_last_error();
    fail(message);
  }

 private:
  void prepare(ffi::RemainingArgs args, ffi::RemainingRets rets, const Attributes &attributes, size_t own) {
    const Numbers roles = attributes.roles;
    const size_t results = rets.size() < own ? 0 : rets.size() - own;
    if (args.size() > SCANLIB_ROLES || roles.size() != args.size() + results)
      return fail("scanlib: " + std::to_string(args.size()) + " operands and " + std::to_string(rets.size()) +
                  " results, but roles for " + std::to_string(roles.size()));
    for (int64_t role : roles)
      if (role < 0 || role >= SCANLIB_ROLES) return fail("scanlib: there is no role " + std::to_string(role));
    auto result = [&](size_t i) { return **rets.get<ffi::AnyBuffer>(i); };
    for (size_t i = 0; i < results; ++i) {
      const int64_t role = roles[args.size() + i];
      if (role == SCANLIB_H || role == SCANLIB_GRAD_X) shape_ = result(i).dimensions();
    }
    if (shape_.size() < 1 || shape_.size() > SCANLIB_MAX_DIMS)
      return fail("scanlib: arrays of 1 to 64 axes expected, got " + std::to_string(shape_.size()));
    if (axis_ < 0 || axis_ >= int64_t(shape_.size()))
      return fail("scanlib: axis " + std::to_string(axis_) + " is out of range for shape " + text_of(shape_));
    View views[SCANLIB_ROLES];
    const size_t viewed = read_views(attributes.views, views);
    if (attributes.views.size() != 0 && viewed != args.size())
      return fail("scanlib: the views of the operands cannot be read");
    for (size_t i = 0; i < args.size(); ++i) {
      if (!viewed) views[i] = {args.get<ffi::AnyBuffer>(i)->dimensions(), 0, nullptr};
      if (roles[i] == SCANLIB_OFFSETS && views[i].dims.size() == 1) segments_ = views[i].dims[0] - 1;
    }
    for (size_t i = 0; i < args.size(); ++i) add(int(roles[i]), *args.get<ffi::AnyBuffer>(i), views[i], true);
    for (size_t i = 0; i < results; ++i) {
      const int role = int(roles[args.size() + i]);
      add(role, result(i), {result(i).dimensions(), 0, nullptr}, role == SCANLIB_GRAD_A);
    }
    if (error_.success())
      check(scanlib_problem_init(&problem_, attributes.reverse ? SCANLIB_REVERSE : 0, int32_t(shape_.size()),
                                 shape_.begin(), int32_t(axis_), segments_, operands_));
    if (error_.failure() || attributes.tuning.size() == 0) return;
    if (attributes.tuning.size() * sizeof(int64_t) != sizeof problem_.tuning)
      return fail("scanlib: " + std::to_string(attributes.tuning.size()) + " numbers of a tuning");
    std::memcpy(&problem_.tuning, attributes.tuning.begin(), sizeof problem_.tuning);
  }

  // How many views there are.
  static size_t read_views(Numbers numbers, View *views) {
    size_t count = 0;
    for (size_t at = 0; at < numbers.size(); ++count) {
      const int64_t left = int64_t(numbers.size() - at), ndim = numbers[at];
      if (count == SCANLIB_ROLES || ndim < 0 || ndim > SCANLIB_MAX_DIMS || left < 2 + 2 * ndim) break;
      const int64_t *extents = numbers.begin() + at + 2;
      views[count] = {Dims(extents, size_t(ndim)), numbers[at + 1], extents + ndim};
      at += size_t(2 + 2 * ndim);
    }
    return count;
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

  // Where `may_repeat`, extent 1 is repeated where the result is longer.
  void add(int role, ffi::AnyBuffer buffer, const View &view, bool may_repeat) {
    if (error_.failure()) return;
    const std::string name = kRoleTraits[role].name;
    if (view.strides && !inside(buffer, view))
      return fail("scanlib: " + name + " is a view that leaves its array of shape " + text_of(buffer.dimensions()));
    const size_t ndim = shape_.size();
    const bool state = is_state(role), packed = segments_ >= 0, offsets = role == SCANLIB_OFFSETS;
    const bool without_time = state && !packed;
    const Dims dims = view.dims;
    const int32_t dtype = dtype_of(role, buffer.element_type());
    if (dtype == SCANLIB_ABSENT) return fail("scanlib: " + name + " has a dtype that is not supported");
    const int64_t size = dtype_size(dtype);
    bool fits = offsets ? dims.size() == 1 : dims.size() + without_time == ndim;
    int64_t step = 1;
    std::fill_n(strides_[role], ndim, 0);
    for (size_t i = dims.size(); fits && i-- > 0;) {
      const size_t d = offsets ? size_t(axis_) : i + (without_time && int64_t(i) >= axis_);
      const int64_t wanted = offsets ? segments_ + 1 : state && int64_t(d) == axis_ ? segments_ : shape_[d];
      const bool repeated = dims[i] != wanted;
      fits = !repeated || (may_repeat && dims[i] == 1);
      strides_[role][d] = repeated ? 0 : size * (view.strides ? view.strides[i] : step);
      step *= dims[i] > 1 ? dims[i] : 1;
    }
    if (!fits)
      return fail("scanlib: " + name + " has shape " + text_of(dims) + ", which does not fit shape " + text_of(shape_) +
                  " with time on axis " + std::to_string(axis_) +
                  (packed ? " and " + std::to_string(segments_) + " segments" : ""));
    operands_[role] = scanlib_operand{dtype, 0, strides_[role]};
    const char *data = static_cast<const char *>(buffer.untyped_data());
    data_[role] = data ? data + view.offset * size : empty;
  }

  Dims shape_{nullptr, 0};
  int64_t axis_;
  int64_t segments_ = -1;  // where there are OFFSETS
  ffi::Error error_ = ffi::Error::Success();
  scanlib_problem problem_;
  scanlib_operand operands_[SCANLIB_ROLES] = {};
  int64_t strides_[SCANLIB_ROLES][SCANLIB_MAX_DIMS];
  const void *data_[SCANLIB_ROLES] = {};
};

// The attributes as a binding's arguments, in the order in which handlers take them.
template <class Binding>
auto with_attributes(Binding binding) {
  return std::move(binding)
      .RemainingArgs()
      .RemainingRets()
      .template Attr<int64_t>("axis")
      .template Attr<bool>("reverse")
      .template Attr<Numbers>("roles")
      .template Attr<Numbers>("views")
      .template Attr<Numbers>("tuning");
}

}  // namespace scanlib
