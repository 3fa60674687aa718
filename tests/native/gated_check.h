// A gated recurrence through the C interface, checked against a serial loop.
#pragma once
#include <string>

#include "check.h"

namespace scanlib_tests {

// Draws a form and sizes, calls forward and backward on one thread and on several: "" or what was wrong. Operands lie in memory
// of exactly their size.
std::string check_gates(Random &random);

}  // namespace scanlib_tests
