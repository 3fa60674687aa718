// From shapes and strides to the canonical (outer, T, inner) problem.
#include "problem.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace scanlib {
namespace {

// Whether stepping once along `outer` is the same as stepping off the end of `inner`, for every operand.
bool merges(const scanlib_axis &outer, const scanlib_axis &inner) {
  for (int role = 0; role < SCANLIB_ROLES; ++role)
    if (outer.stride[role] != inner.stride[role] * inner.extent) return false;
  return true;
}

// How many elements an operand has along an axis of extent `extent`.
int64_t length_of(int role, bool along_time, int64_t extent, bool packed, int64_t segments) {
  if (!along_time) return extent;
  if (role == SCANLIB_OFFSETS) return segments + 1;
  return is_state(role) ? (packed ? segments : 1) : extent;
}

// Whether the extents and strides stay inside a 64-bit address space, with room to add them up. An empty axis counts as
// one of extent 1: the others are multiplied all the same.
bool fits(int32_t ndim, const int64_t *shape, int32_t axis, int64_t segments, const scanlib_operand *operands) {
  const bool packed = operands[SCANLIB_OFFSETS].dtype != SCANLIB_ABSENT;
  const int64_t limit = int64_t(1) << 62;
  if (packed && segments >= limit) return false;
  int64_t bytes = 16;  // of the largest elements
  for (int d = 0; d < ndim; ++d)
    if (__builtin_mul_overflow(bytes, shape[d] > 0 ? shape[d] : 1, &bytes) || bytes > limit) return false;
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    if (operands[role].dtype == SCANLIB_ABSENT) continue;
    int64_t reach = 0;
    for (int d = 0; d < ndim; ++d) {
      const int64_t length = length_of(role, d == axis, shape[d], packed, segments);
      if (d == axis && is_state(role) && !packed) continue;
      int64_t stride = operands[role].strides[d], part;
      if (stride <= -limit || stride >= limit || length > limit) return false;
      if (__builtin_mul_overflow(stride < 0 ? -stride : stride, length > 0 ? length - 1 : 0, &part) ||
          __builtin_add_overflow(reach, part, &reach) || reach > limit)
        return false;
    }
  }
  return true;
}

// Whether an operand of that role may be of a dtype.
bool has_kind(int role, int32_t dtype) {
  if (role == SCANLIB_OFFSETS) return dtype == SCANLIB_I32 || dtype == SCANLIB_I64;
  return role == SCANLIB_RESET ? dtype == SCANLIB_BOOL : dtype < SCANLIB_BOOL;
}

// Whether the operands are those of a pass.
bool complete(bool gated, const scanlib_operand *operands) {
  auto has = [&](int role) { return operands[role].dtype != SCANLIB_ABSENT; };
  const bool backward = has(SCANLIB_GRAD_H);
  if (has(SCANLIB_RESET) && has(SCANLIB_OFFSETS)) return false;
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    const scanlib_operand &operand = operands[role];
    const int use = kRoleTraits[role].use(gated, backward);
    if (operand.dtype == SCANLIB_ABSENT) {
      if (use != SCANLIB_UNUSED && !(use & SCANLIB_OPTIONAL)) return false;
    } else if (use == SCANLIB_UNUSED || !dtype_size(operand.dtype) || !operand.strides ||
               !has_kind(role, operand.dtype)) {
      return false;
    }
  }
  return true;
}

// Fills *problem from what has been checked.
int make_problem(scanlib_problem *problem, scanlib_source source, int32_t flags, int32_t ndim, const int64_t *shape,
                 int32_t axis, int64_t segments, const scanlib_operand *operands) {
  auto has = [&](int role) { return operands[role].dtype != SCANLIB_ABSENT; };
  const bool packed = has(SCANLIB_OFFSETS);
  if (packed && segments < 0) return SCANLIB_E_ARGUMENT;
  if (!fits(ndim, shape, axis, segments, operands)) return SCANLIB_E_OVERFLOW;

  // Collect the axes: time apart, those of extent 1 dropped.
  scanlib_axis time{shape[axis], {}};
  scanlib_axis axes[SCANLIB_MAX_DIMS];
  int count = 0;
  for (int d = 0; d < ndim; ++d) {
    if (d != axis && shape[d] == 1) continue;
    scanlib_axis &target = d == axis ? time : axes[count++];
    target.extent = shape[d];
    for (int role = 0; role < SCANLIB_ROLES; ++role) {
      const bool none = !has(role) || (d == axis && is_state(role) && !packed);
      target.stride[role] = none ? 0 : operands[role].strides[d];
    }
  }

  // Order them by the stride of the leading operand, largest first (stable), so that the innermost is nearest in memory.
  const int lead = leading_role(source == SCANLIB_COLUMNS, has(SCANLIB_GRAD_H));
  auto nearness = [&](const scanlib_axis &of) { return std::llabs(of.stride[lead]); };
  for (int i = 1; i < count; ++i) {
    const scanlib_axis moving = axes[i];
    int j = i;
    for (; j > 0 && nearness(axes[j - 1]) < nearness(moving); --j) axes[j] = axes[j - 1];
    axes[j] = moving;
  }

  // Merge neighbours that every operand walks as one axis.
  int merged = 0;
  for (int i = 0; i < count; ++i) {
    if (merged > 0 && merges(axes[merged - 1], axes[i])) {
      scanlib_axis joined = axes[i];
      joined.extent *= axes[merged - 1].extent;
      axes[merged - 1] = joined;
    } else {
      axes[merged++] = axes[i];
    }
  }

  // The nearest of them is `inner`.
  scanlib_axis inner{1, {}};
  if (merged > 0) inner = axes[--merged];
  std::memset(problem, 0, offsetof(scanlib_problem, outer));
  problem->abi_version = SCANLIB_ABI_VERSION;
  problem->flags = flags;
  problem->outer_rank = merged;
  problem->source = source;
  problem->segments = packed ? segments : 0;
  for (int role = 0; role < SCANLIB_ROLES; ++role) problem->dtype[role] = operands[role].dtype;
  problem->time = time;
  problem->inner = inner;
  std::copy(axes, axes + merged, problem->outer);
  return SCANLIB_OK;
}

}  // namespace

int64_t dtype_size(int32_t dtype) {
  switch (dtype) {
    case SCANLIB_F16:
    case SCANLIB_BF16:
      return 2;
    case SCANLIB_F32:
      return 4;
    case SCANLIB_F64:
    case SCANLIB_C64:
      return 8;
    case SCANLIB_C128:
      return 16;
    case SCANLIB_BOOL:
      return 1;
    case SCANLIB_I32:
      return 4;
    case SCANLIB_I64:
      return 8;
    default:
      return 0;
  }
}

const char *dtype_name(int32_t dtype) {
  static const char *const kNames[] = {"",          "float16",    "bfloat16", "float32", "float64",
                                       "complex64", "complex128", "bool",     "int32",   "int64"};
  return dtype_size(dtype) ? kNames[dtype] : "";
}

int32_t compute_dtype(const scanlib_problem &p) {
  bool complex = false, wide = false;
  for (const int32_t dtype : p.dtype) {
    complex = complex || dtype == SCANLIB_C64 || dtype == SCANLIB_C128;
    wide = wide || dtype == SCANLIB_F64 || dtype == SCANLIB_C128;
  }
  return complex ? (wide ? SCANLIB_C128 : SCANLIB_C64) : wide ? SCANLIB_F64 : SCANLIB_F32;
}

int64_t lane_count(const scanlib_problem &p) {
  int64_t count = p.inner.extent;
  for (int d = 0; d < p.outer_rank; ++d) count *= p.outer[d].extent;
  return count;
}

bool time_nearest(const scanlib_problem &p) {
  const int lead = leading_role(p);
  return p.inner.extent == 1 || std::llabs(p.time.stride[lead]) < std::llabs(p.inner.stride[lead]);
}

}  // namespace scanlib

using namespace scanlib;

extern "C" int scanlib_problem_init(scanlib_problem *problem, int32_t flags, int32_t ndim, const int64_t *shape,
                                    int32_t axis, int64_t segments, const scanlib_operand *operands) {
  if (!problem || !shape || !operands || ndim < 1 || ndim > SCANLIB_MAX_DIMS || axis < 0 || axis >= ndim)
    return SCANLIB_E_ARGUMENT;
  if (flags & ~(SCANLIB_REVERSE | SCANLIB_CONJUGATE | SCANLIB_OPENMP)) return SCANLIB_E_ARGUMENT;
  if (!complete(false, operands)) return SCANLIB_E_ARGUMENT;
  for (int d = 0; d < ndim; ++d)
    if (shape[d] < 0) return SCANLIB_E_ARGUMENT;
  return make_problem(problem, SCANLIB_OPERANDS, flags, ndim, shape, axis, segments, operands);
}

extern "C" int scanlib_gated_problem_init(scanlib_problem *problem, int32_t flags, int32_t dtype,
                                          const scanlib_gates *gates, const int32_t *given) {
  if (!problem || !gates || !given || dtype < SCANLIB_F16 || dtype > SCANLIB_F64 || (flags & ~SCANLIB_OPENMP))
    return SCANLIB_E_ARGUMENT;
  const scanlib_gates &g = *gates;
  if (g.candidate < 0 || g.candidate >= SCANLIB_CANDIDATES || g.reading < 0 || g.reading >= SCANLIB_READINGS)
    return SCANLIB_E_ARGUMENT;
  if (g.outer < 0 || g.time < 0 || g.inner < 0 || g.width < 0) return SCANLIB_E_ARGUMENT;
  auto inside = [&](int64_t at) { return at >= 0 && g.row >= g.width && at <= g.row - g.width; };
  const bool gated = g.reading == SCANLIB_GATED;
  if (!inside(g.at_decay) || !inside(g.at_candidate) || (g.at_input != -1 && !inside(g.at_input)) ||
      (gated && !inside(g.at_output)))
    return SCANLIB_E_ARGUMENT;
  if (!given[SCANLIB_GRAD_H] && gated != (given[SCANLIB_Y] != 0)) return SCANLIB_E_ARGUMENT;
  int64_t bytes = dtype_size(dtype);
  const bool packed = given[SCANLIB_OFFSETS] != 0;
  if (packed && g.segments < 0) return SCANLIB_E_ARGUMENT;
  for (int64_t extent : {g.outer, std::max(g.time, packed ? g.segments : 0), g.inner, g.row})
    if (extent && __builtin_mul_overflow(bytes, extent, &bytes)) return SCANLIB_E_OVERFLOW;

  // Strides over (outer, time, inner, width).
  constexpr int kDims = 4, kTime = 1;
  const int64_t shape[kDims] = {g.outer, g.time, g.inner, g.width}, size = dtype_size(dtype);
  auto dense = [&](int64_t each, int64_t row, int64_t time, int64_t *to) {
    to[3] = each;
    to[2] = row;
    to[1] = row * g.inner;
    to[0] = to[1] * time;
  };
  int64_t strides[SCANLIB_ROLES][kDims];
  scanlib_operand operands[SCANLIB_ROLES] = {};
  for (int role = 0; role < SCANLIB_ROLES; ++role) {
    if (!given[role]) continue;
    operands[role] = {role == SCANLIB_RESET     ? int32_t(SCANLIB_BOOL)
                      : role == SCANLIB_OFFSETS ? given[role]
                                                : dtype,
                      0, strides[role]};
    if (role == SCANLIB_RESET)
      dense(0, 1, g.time, strides[role]);
    else if (role == SCANLIB_OFFSETS)
      std::fill_n(strides[role], kDims, 0), strides[role][kTime] = dtype_size(given[role]);
    else if (role == SCANLIB_A || role == SCANLIB_GRAD_A)
      dense(size, g.row * size, g.time, strides[role]);
    else
      dense(size, g.width * size, !is_state(role) ? g.time : packed ? g.segments : 1, strides[role]);
  }
  if (!complete(true, operands)) return SCANLIB_E_ARGUMENT;
  const int status = make_problem(problem, SCANLIB_COLUMNS, flags, kDims, shape, kTime, g.segments, operands);
  if (status == SCANLIB_OK) {
    problem->gates = g;
    problem->gates.complement = g.complement != 0;
    problem->gates.reserved = 0;
    if (!gated) problem->gates.at_output = -1;  // of no meaning
  }
  return status;
}

extern "C" const char *scanlib_status_string(int status) {
  switch (status) {
    case SCANLIB_OK:
      return "no error";
    case SCANLIB_E_ARGUMENT:
      return "libscanlib was given an argument it does not accept";
    case SCANLIB_E_OFFSETS:
      return "offsets must begin at 0, never decrease, and end at the length of the axis of time";
    case SCANLIB_E_ALIGNMENT:
      return "an operand's address or stride is not a multiple of its element size; copy it to aligned memory";
    case SCANLIB_E_OVERFLOW:
      return "extents and strides reach past a 64-bit address space";
    case SCANLIB_E_MEMORY:
      return "libscanlib could not allocate its scratch memory";
    case SCANLIB_E_NO_GPU:
      return "there is no CUDA driver, or it finds no GPU";
    case SCANLIB_E_COMPILER:
      return "there is nothing to compile CUDA kernels with";
    case SCANLIB_E_COMPILE:
      return "a CUDA kernel does not compile";
    case SCANLIB_E_CUDA:
      return "the CUDA driver refused a call";
    default:
      return "unknown status of libscanlib";
  }
}

extern "C" int scanlib_abi_version(void) { return SCANLIB_ABI_VERSION; }
