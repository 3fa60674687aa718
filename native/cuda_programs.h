// Programs of the CUDA kernels: which a problem needs in a context, having them compiled and loaded when they are first met, and the
// errors of all that talks to the driver.
//
// The driver takes a program as a library that belongs to no context, so one is kept for each architecture; it becomes
// resident in a context when it is first launched there. That is done ahead of the launch and outside of what a stream
// capture forbids, so a first call may be captured.
#pragma once
#include <memory>

#include "cuda_driver.h"
#include "cuda_plan.h"
#include "scanlib.h"

namespace scanlib {

// Says why this thread's call fails, in place of what was said before; returns `status`, and SCANLIB_E_CUDA.
__attribute__((format(printf, 2, 3))) int cuda_failure(int status, const char *format, ...);
int cuda_refusal(const CudaDriver &driver, const char *call, CudaResult error);
const char *cuda_last_failure();
void forget_cuda_failure();

// Calls the driver; where it refuses, the function returns.
#define SCANLIB_CALL(driver, function, ...)                                                               \
  do {                                                                                                    \
    if (CudaResult error = (driver).function(__VA_ARGS__)) return cuda_refusal(driver, #function, error); \
  } while (0)

// What is worked out once for a problem in a context: how to run it, its kernels, resident there, and on how many blocks they run.
struct CudaPrepared {
  CudaPlan plan;
  CudaKernel kernels[CudaPlan::kMostLaunches];
  unsigned blocks[CudaPlan::kMostLaunches];
};

// For a context that is current, of that device. May throw std::bad_alloc.
int prepare_cuda(const CudaDriver &driver, const scanlib_problem &problem, CudaContext context, int device,
                 std::shared_ptr<const CudaPrepared> *found);

void forget_cuda_programs();

}  // namespace scanlib
