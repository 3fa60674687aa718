// What the driver's modes share: calls whose failures are counted, and the cases of a shape.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

#include "check.h"

namespace scanlib_tests {

inline constexpr int32_t kDtypes[] = {SCANLIB_F16, SCANLIB_BF16, SCANLIB_F32, SCANLIB_F64, SCANLIB_C64, SCANLIB_C128};

extern std::atomic<int> failures;

// Counts a call that check() finds wrong, and says what was.
void run(const Case &c);

// Counts what does not hold, and says so.
void require(bool holds, const char *what);

int forward(const scanlib_problem *problem, const void *a, const void *x, const void *h0, void *h, void *final_state);

// A case with every operand but those that say where sequences start, all contiguous and of one dtype.
Case plain(std::vector<int64_t> shape, int32_t axis, int32_t dtype, bool backward);

// The layouts of one shape: contiguous, broadcast and shared operands, halves of a projection, negative strides, gaps.
std::vector<Case> layouts(const std::vector<int64_t> &shape, int32_t axis, int32_t dtype, bool backward);

// Some of the layouts with sequences that start inside the time axis.
std::vector<Case> with_starts(const std::vector<Case> &layouts, int count, Random &random);

// Modes.
void cases();
void large(int every);
void concurrent();
void forks();
void gated(int count);
void openmp();
void refusals();
void sets();

}  // namespace scanlib_tests
