// The driver's mode of what must be refused.
#include <cstring>

#include "driver.h"

using namespace scanlib_tests;

namespace {

// What says where sequences start, and cannot.
void refused_starts() {
  float a[4] = {}, x[4] = {}, h[4] = {7, 7, 7, 7};
  const int64_t shape[] = {4}, strides[] = {sizeof(float)}, bytes[] = {1}, wide[] = {sizeof(int64_t)};
  const unsigned char reset[4] = {0, 1, 0, 0};
  scanlib_operand given[SCANLIB_ROLES] = {};
  for (int role : {SCANLIB_A, SCANLIB_X, SCANLIB_H}) given[role] = {SCANLIB_F32, 0, strides};
  scanlib_problem problem;
  auto init = [&](int64_t segments) { return scanlib_problem_init(&problem, 0, 1, shape, 0, segments, given); };
  auto run = [&](const void *mask, const void *offsets) {
    const void *pointers[SCANLIB_ROLES] = {};
    pointers[SCANLIB_A] = a, pointers[SCANLIB_X] = x, pointers[SCANLIB_H] = h;
    pointers[SCANLIB_RESET] = mask, pointers[SCANLIB_OFFSETS] = offsets;
    return scanlib_cpu_run(&problem, pointers);
  };
  require(init(-1) == SCANLIB_OK, "segments are of no meaning without offsets");
  for (int32_t dtype = SCANLIB_F16; dtype <= SCANLIB_I64 + 1; ++dtype) {
    given[SCANLIB_RESET] = {dtype, 0, bytes};
    require((init(0) == SCANLIB_OK) == (dtype == SCANLIB_BOOL), "a mask is of bytes that are true or false");
    given[SCANLIB_RESET] = {};
    given[SCANLIB_OFFSETS] = {dtype, 0, wide};
    require((init(2) == SCANLIB_OK) == (dtype == SCANLIB_I32 || dtype == SCANLIB_I64), "offsets are integers");
    given[SCANLIB_OFFSETS] = {};
    for (int role : {SCANLIB_A, SCANLIB_X, SCANLIB_H}) {
      given[role].dtype = dtype;
      require((init(0) == SCANLIB_OK) == (dtype < SCANLIB_BOOL), "no other operand is of their dtypes");
      given[role].dtype = SCANLIB_F32;
    }
  }

  given[SCANLIB_RESET] = {SCANLIB_BOOL, 0, bytes};
  require(init(0) == SCANLIB_OK, "a mask is taken");
  require(run(nullptr, nullptr) == SCANLIB_E_ARGUMENT, "a null mask is refused where it is prepared");
  given[SCANLIB_OFFSETS] = {SCANLIB_I64, 0, wide};
  require(init(2) == SCANLIB_E_ARGUMENT, "a mask and offsets are refused");
  given[SCANLIB_RESET] = {};
  require(init(-1) == SCANLIB_E_ARGUMENT, "a negative number of segments is refused");
  require(init(INT64_MIN) == SCANLIB_E_ARGUMENT, "a giant negative number of segments is refused");
  require(init(INT64_MAX) == SCANLIB_E_OVERFLOW, "a giant number of segments is refused");
  given[SCANLIB_OFFSETS] = {SCANLIB_I64, 0, nullptr};
  require(init(2) == SCANLIB_E_ARGUMENT, "null strides of offsets are refused");
  given[SCANLIB_OFFSETS] = {SCANLIB_I64, 0, wide};
  require(init(2) == SCANLIB_OK, "offsets are taken");
  require(run(nullptr, nullptr) == SCANLIB_E_ARGUMENT, "null offsets are refused");
  const int64_t lies[][3] = {{1, 2, 4},         {0, 2, 3},         {0, 2, 5},  {0, 5, 4},
                             {0, -1, 4},        {-1, 2, 4},        {0, 4, -4}, {0, INT64_MAX, 4},
                             {0, INT64_MIN, 4}, {0, 2, INT64_MAX}, {4, 2, 0}};
  for (const int64_t *lie : lies) require(run(nullptr, lie) == SCANLIB_E_OFFSETS, "offsets that lie are refused");
  require(init(0) == SCANLIB_OK, "no segments are taken");
  const int64_t zero = 0, four = 4;
  for (const int64_t *only : {&zero, &four})
    require(run(nullptr, only) == SCANLIB_E_OFFSETS, "no segments have no steps");
  for (float value : h) require(value == 7, "a refused call writes nothing");
  require(init(2) == SCANLIB_OK, "offsets are taken again");
  const int64_t true_ones[] = {0, 4, 4};
  require(run(reset, true_ones) == SCANLIB_OK && h[3] == 0, "where there are offsets no mask is looked at");

  // The same of gates.
  scanlib_gates gates = {};
  gates.outer = gates.inner = 1, gates.time = 4, gates.width = 1, gates.row = 2, gates.at_candidate = 1;
  gates.at_input = -1;
  int32_t with[SCANLIB_ROLES] = {};
  with[SCANLIB_A] = with[SCANLIB_H] = 1;
  auto init_gates = [&](int64_t segments, int32_t mask, int32_t offsets) {
    gates.segments = segments;
    with[SCANLIB_RESET] = mask, with[SCANLIB_OFFSETS] = offsets;
    return scanlib_gated_problem_init(&problem, 0, SCANLIB_F32, &gates, with);
  };
  require(init_gates(-1, 1, 0) == SCANLIB_OK, "a mask of gates is taken");
  require(init_gates(2, 0, SCANLIB_I32) == SCANLIB_OK, "offsets of gates are taken");
  require(init_gates(2, 1, SCANLIB_I32) == SCANLIB_E_ARGUMENT, "a mask and offsets of gates are refused");
  require(init_gates(2, 0, SCANLIB_F32) == SCANLIB_E_ARGUMENT, "offsets of gates are integers");
  require(init_gates(2, 0, SCANLIB_I64 + 1) == SCANLIB_E_ARGUMENT, "an unknown dtype of offsets is refused");
  require(init_gates(-1, 0, SCANLIB_I64) == SCANLIB_E_ARGUMENT, "a negative number of segments of gates is refused");
  require(init_gates(INT64_MIN, 0, SCANLIB_I64) == SCANLIB_E_ARGUMENT, "so is a giant negative one");
  require(init_gates(INT64_MAX, 0, SCANLIB_I64) == SCANLIB_E_OVERFLOW, "a giant number of them is refused");
}

void refused_problems() {
  float a[4] = {}, x[4] = {}, h[4] = {7, 7, 7, 7};
  const int64_t shape[] = {4}, strides[] = {sizeof(float)}, negative[] = {-1}, giant[] = {INT64_MAX};
  scanlib_operand given[SCANLIB_ROLES] = {};
  for (int role : {SCANLIB_A, SCANLIB_X, SCANLIB_H}) given[role] = {SCANLIB_F32, 0, strides};
  scanlib_problem problem;
  auto init = [&](int32_t flags, int32_t ndim, const int64_t *extents, int32_t axis) {
    return scanlib_problem_init(&problem, flags, ndim, extents, axis, 0, given);
  };
  require(init(0, 1, shape, 1) == SCANLIB_E_ARGUMENT, "an axis past the last is refused");
  require(init(0, 1, shape, -1) == SCANLIB_E_ARGUMENT, "a negative axis is refused");
  require(init(0, 0, shape, 0) == SCANLIB_E_ARGUMENT, "no axes are refused");
  require(init(0, SCANLIB_MAX_DIMS + 1, shape, 0) == SCANLIB_E_ARGUMENT, "too many axes are refused");
  require(init(8, 1, shape, 0) == SCANLIB_E_ARGUMENT, "unknown flags are refused");
  require(init(0, 1, nullptr, 0) == SCANLIB_E_ARGUMENT, "a null shape is refused");
  require(init(0, 1, negative, 0) == SCANLIB_E_ARGUMENT, "a negative extent is refused");
  require(init(0, 1, giant, 0) == SCANLIB_E_OVERFLOW, "a giant extent is refused");
  require(scanlib_problem_init(nullptr, 0, 1, shape, 0, 0, given) == SCANLIB_E_ARGUMENT, "a null problem is refused");
  given[SCANLIB_A].dtype = SCANLIB_I64 + 1;
  require(init(0, 1, shape, 0) == SCANLIB_E_ARGUMENT, "an unknown dtype is refused");
  given[SCANLIB_A] = {SCANLIB_F32, 0, nullptr};
  require(init(0, 1, shape, 0) == SCANLIB_E_ARGUMENT, "null strides are refused");
  given[SCANLIB_A] = {};
  require(init(0, 1, shape, 0) == SCANLIB_E_ARGUMENT, "a missing operand is refused");
  given[SCANLIB_A] = {SCANLIB_F32, 0, giant};
  require(init(0, 1, shape, 0) == SCANLIB_E_OVERFLOW, "a giant stride is refused");
  given[SCANLIB_A] = {SCANLIB_F32, 0, strides};

  require(init(0, 1, shape, 0) == SCANLIB_OK, "a plain problem is taken");
  require(forward(nullptr, a, x, nullptr, h, nullptr) == SCANLIB_E_ARGUMENT, "a null problem is refused");
  require(forward(&problem, nullptr, x, nullptr, h, nullptr) == SCANLIB_E_ARGUMENT, "a null a is refused");
  require(scanlib_cpu_run(&problem, nullptr) == SCANLIB_E_ARGUMENT, "a null table of pointers is refused");
  given[SCANLIB_GRAD_A] = given[SCANLIB_A];
  require(init(0, 1, shape, 0) == SCANLIB_E_ARGUMENT, "an operand of the other pass is refused");
  given[SCANLIB_GRAD_A] = {};
  given[SCANLIB_H0] = given[SCANLIB_A];
  require(init(0, 1, shape, 0) == SCANLIB_OK, "an initial state is taken");
  require(forward(&problem, a, x, nullptr, h, nullptr) == SCANLIB_E_ARGUMENT,
          "a null h0 is refused where it is prepared");
  given[SCANLIB_H0] = {};
  require(init(0, 1, shape, 0) == SCANLIB_OK, "the plain problem is taken again");
  const int64_t none[] = {0};
  given[SCANLIB_FINAL] = {SCANLIB_F32, 0, strides};
  require(init(0, 1, none, 0) == SCANLIB_OK, "a problem of no steps is taken");
  require(forward(&problem, nullptr, nullptr, nullptr, nullptr, nullptr) == SCANLIB_E_ARGUMENT,
          "a null final state is refused though there are no steps");
  require(forward(&problem, nullptr, nullptr, nullptr, nullptr, h + 3) == SCANLIB_OK && h[3] == 0,
          "without steps only the final state needs memory");
  h[3] = 7;
  given[SCANLIB_FINAL] = {};
  require(init(0, 1, shape, 0) == SCANLIB_OK, "the plain problem is taken again");

  problem.abi_version += 1;
  require(forward(&problem, a, x, nullptr, h, nullptr) == SCANLIB_E_ARGUMENT, "another ABI is refused");
  for (float value : h) require(value == 7, "a refused call writes nothing");

  require(scanlib_cpu_select_isa("abacus") == SCANLIB_E_ARGUMENT, "an unknown instruction set is refused");
  require(scanlib_cpu_select_isa(nullptr) == SCANLIB_E_ARGUMENT, "a null instruction set is refused");
  for (int status = -1; status <= SCANLIB_E_CUDA + 1; ++status)
    require(std::strlen(scanlib_status_string(status)) > 5, "every status has a text");
  require(scanlib_abi_version() == SCANLIB_ABI_VERSION, "the ABI is the header's");
  require(scanlib_cpu_threads() >= 1, "there is a thread to run on");
}

}  // namespace

void scanlib_tests::refusals() {
  refused_problems();
  refused_starts();
}
