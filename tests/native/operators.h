// The inner loops of the operators in tests/operators, of each instruction set.
#pragma once
#include "../operators/max_plus.h"
#include "../operators/spiral.h"
#include "kernels.h"

namespace scanlib_tests {

struct OperatorLoops {
  const char *isa;
  scanlib::Kernels<scanlib::MaxPlus<scanlib::Scalars<float>>> max_plus_f32;
  scanlib::Kernels<scanlib::MaxPlus<scanlib::Scalars<double>>> max_plus_f64;
  scanlib::Kernels<scanlib::Spiral<scanlib::Scalars<scanlib::Complex<float>>>> spiral_c64;
  scanlib::Kernels<scanlib::Spiral<scanlib::Scalars<scanlib::Complex<double>>>> spiral_c128;
};

#if defined(__x86_64__)
extern const OperatorLoops baseline, avx2, avx512;
#elif defined(__aarch64__)
extern const OperatorLoops neon;
#else
extern const OperatorLoops baseline;
#endif

}  // namespace scanlib_tests
