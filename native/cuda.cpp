// The CUDA entry points of the C interface: a problem's launches on the caller's stream.
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "cuda_driver.h"
#include "cuda_plan.h"
#include "cuda_programs.h"
#include "pointers.h"
#include "problem.h"
#include "scanlib.h"

namespace scanlib {
namespace {

// Makes a stream's context current for the time of a call.
class Current {
 public:
  explicit Current(const CudaDriver &driver) : driver_(driver) {}
  ~Current() {
    CudaContext popped;
    if (pushed_) driver_.cuCtxPopCurrent_v2(&popped);
  }
  Current(const Current &) = delete;

  // `operand` is an address on the device: where it tells the device if neither stream nor thread does.
  int enter(CudaStream stream, const void *operand) {
    CudaResult error = driver_.cuStreamGetCtx(stream, &context);
    if (error == kCudaErrorInvalidContext && operand) {
      int device = 0;
      SCANLIB_CALL(driver_, cuPointerGetAttribute, &device, kCudaPointerDevice, reinterpret_cast<CudaAddress>(operand));
      SCANLIB_CALL(driver_, cuDevicePrimaryCtxRetain, &context, device);  // for as long as the process lives
    } else if (error) {
      return cuda_refusal(driver_, "cuStreamGetCtx", error);
    }
    CudaContext before = nullptr;
    SCANLIB_CALL(driver_, cuCtxGetCurrent, &before);
    if (before != context) {
      SCANLIB_CALL(driver_, cuCtxPushCurrent_v2, context);
      pushed_ = true;
    }
    return SCANLIB_OK;
  }

  CudaContext context = nullptr;

 private:
  const CudaDriver &driver_;
  bool pushed_ = false;
};

// Calls put(pointers, part) for each index of the loops from `first` to `last`.
template <class Put>
int for_each(const std::vector<CudaLoop> &loops, size_t first, size_t last, const CudaPointers &pointers, int64_t part,
             Put put) {
  if (first == last) return put(pointers, part);
  const CudaLoop &loop = loops[first];
  CudaPointers at = pointers;
  for (int64_t i = 0; i < loop.axis.extent; ++i) {
    if (int status = for_each(loops, first + 1, last, at, part + i * loop.part, put)) return status;
    for (int role = 0; role < SCANLIB_ROLES; ++role)
      if (at.of[role]) at.of[role] = static_cast<char *>(at.of[role]) + loop.axis.stride[role];
  }
  return SCANLIB_OK;
}

int put_on(const CudaDriver &driver, const CudaPrepared &prepared, CudaStream stream, void *scratch,
           const CudaPointers &pointers) {
  const CudaPlan &plan = prepared.plan;
  auto start = [&](int i, const CudaPointers &at, int64_t part) -> int {
    CudaParams params;
    fill_cuda_params(plan, at, part, scratch, &params);
    void *arguments[] = {&params};
    SCANLIB_CALL(driver, cuLaunchKernel, prepared.kernels[i], prepared.blocks[i], 1, 1, plan.launch[i].threads, 1, 1, 0,
                 stream, arguments, nullptr);
    return SCANLIB_OK;
  };
  auto walk = [&](const CudaPointers &at, int64_t part) -> int {
    if (!plan.walks) return SCANLIB_OK;
    if (plan.zeroed_bytes)
      SCANLIB_CALL(driver, cuMemsetD8Async, reinterpret_cast<CudaAddress>(scratch), 0, size_t(plan.zeroed_bytes),
                   stream);
    return start(0, at, part);
  };
  const std::vector<CudaLoop> &loops = plan.loops;
  size_t kept = 0;
  while (kept < loops.size() && !loops[kept].summed) ++kept;
  return for_each(loops, 0, kept, pointers, 0, [&](const CudaPointers &at, int64_t) -> int {
    if (int status = for_each(loops, kept, loops.size(), at, 0, walk)) return status;
    return plan.sums ? start(plan.launches - 1, at, 0) : SCANLIB_OK;
  });
}

int launch(const scanlib_problem &problem, CudaStream stream, void *scratch, const CudaPointers &pointers) {
  char why[1024];
  const CudaDriver *driver = cuda_driver(why, sizeof why);
  if (!driver) return cuda_failure(SCANLIB_E_NO_GPU, "%s", why);
  Current current(*driver);
  const void *operand = nullptr;
  for (void *pointer : pointers.of) operand = operand ? operand : pointer;
  if (int status = current.enter(stream, operand)) return status;
  int device = 0;
  SCANLIB_CALL(*driver, cuCtxGetDevice, &device);
  std::shared_ptr<const CudaPrepared> prepared;
  if (int status = prepare_cuda(*driver, problem, current.context, device, &prepared)) return status;
  const CudaPlan &plan = prepared->plan;
  if (plan.scratch_bytes && (!scratch || reinterpret_cast<uintptr_t>(scratch) % kCudaScratchAlignment))
    return SCANLIB_E_ARGUMENT;
  return put_on(*driver, *prepared, stream, scratch, pointers);
}

bool valid(const scanlib_problem *problem) { return problem && problem->abi_version == SCANLIB_ABI_VERSION; }

int run(const scanlib_problem *problem, CudaStream stream, void *scratch, const void *const *given_pointers) {
  forget_cuda_failure();
  if (!valid(problem)) return SCANLIB_E_ARGUMENT;
  CudaPointers pointers;
  if (int status = resolve_pointers(*problem, given_pointers, pointers.of)) return status;
  if (!pointers_aligned(*problem, pointers.of)) return SCANLIB_E_ALIGNMENT;
  try {
    return launch(*problem, stream, scratch, pointers);
  } catch (const std::bad_alloc &) {
    return SCANLIB_E_MEMORY;
  } catch (...) {
    return cuda_failure(SCANLIB_E_CUDA, "a lock of the operating system failed");
  }
}

}  // namespace
}  // namespace scanlib

using namespace scanlib;

extern "C" int scanlib_cuda_scratch_bytes(const scanlib_problem *problem, int64_t *bytes) {
  return valid(problem) && bytes ? cuda_scratch_bytes(*problem, bytes) : SCANLIB_E_ARGUMENT;
}

extern "C" int scanlib_cuda_run(const scanlib_problem *problem, void *stream, void *scratch,
                                const void *const *pointers) {
  return run(problem, stream, scratch, pointers);
}

extern "C" size_t scanlib_cuda_describe(const scanlib_problem *problem, char *buffer, size_t size) {
  CudaPlan plan;
  if (!valid(problem) || plan_cuda(*problem, &plan)) return 0;
  return size_t(std::snprintf(buffer, size, "%s", plan.summary));
}

extern "C" size_t scanlib_cuda_programs(const scanlib_problem *problem, char *buffer, size_t size) {
  CudaPlan plan;
  if (!valid(problem) || plan_cuda(*problem, &plan)) return 0;
  static_assert(CudaPlan::kMostLaunches == 2, "the lines below are for two");
  const char *second = plan.launches > 1 ? plan.launch[1].options : "";
  return size_t(std::snprintf(buffer, size, "%s%s%s", plan.launches > 0 ? plan.launch[0].options : "",
                              *second ? "\n" : "", second));
}

extern "C" int scanlib_cuda_use_driver(const char *path) {
  if (int status = use_cuda_driver(path)) return status;
  forget_cuda_programs();
  return SCANLIB_OK;
}
