// The floating-point environment of a thread.
#pragma once
#include <cfenv>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace scanlib {

// Callers may have set their threads to flush subnormal numbers to zero (XLA does, torch.set_flush_denormal can) or to round otherwise. For
// the time of a call nobody does, so that a result does not depend on which thread computed which part of it.
class IeeeArithmetic {
 public:
#if defined(__x86_64__)
  IeeeArithmetic() : saved_(_mm_getcsr()) {
    if ((saved_ & ~kStatus) != kDefault) _mm_setcsr(kDefault);
  }
  ~IeeeArithmetic() {
    if ((saved_ & ~kStatus) != kDefault) _mm_setcsr(saved_);
  }

 private:
  static constexpr unsigned kStatus = 0x3f, kDefault = 0x1f80;  // of the MXCSR register
  unsigned saved_;
#else
  IeeeArithmetic() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~IeeeArithmetic() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
#endif
  IeeeArithmetic(const IeeeArithmetic &) = delete;
  IeeeArithmetic &operator=(const IeeeArithmetic &) = delete;
};

}  // namespace scanlib
