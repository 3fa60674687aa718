// What the driver's modes share: calls whose failures are counted.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

#include "check.h"

namespace scanlib_tests {

extern std::atomic<int> failures;

// Counts a call that check() finds wrong, and says what was.
void run(const Case &c);

// Counts what does not hold, and says so.
void require(bool holds, const char *what);

int forward(const scanlib_problem *problem, const void *a, const void *x, const void *h0, void *h, void *final_state);

// A case with every operand but those that say where sequences start, all contiguous and of one dtype.
Case plain(std::vector<int64_t> shape, int32_t axis, int32_t dtype, bool backward);

// Modes.
void concurrent();
void forks();
void openmp();

}  // namespace scanlib_tests
