// The CUDA entry points of the C interface: which programs a problem needs, having them compiled and loaded when they are
// first met, and putting their launches on the caller's stream.
//
// The driver takes a program as a library that belongs to no context, so one is kept for each architecture; it becomes
// resident in a context when it is first launched there. That is done ahead of the launch and outside of what a stream
// capture forbids, so a first call may be captured.
#include <algorithm>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cuda_driver.h"
#include "cuda_plan.h"
#include "pointers.h"
#include "problem.h"
#include "scanlib.h"

namespace scanlib {
namespace {

constexpr const char *kEntry = "scanlib_kernel";

thread_local char last_error[8192];

__attribute__((format(printf, 2, 3))) int fail(int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
  return status;
}

int refused(const CudaDriver &driver, const char *call, CudaResult error) {
  const char *name = nullptr, *text = nullptr;
  driver.cuGetErrorName(error, &name);
  driver.cuGetErrorString(error, &text);
  return fail(
      SCANLIB_E_CUDA, "%s returned %s (%s)%s", call, name ? name : "an unknown error", text ? text : "",
      error == kCudaErrorNotInitialized
          ? ": a process that was forked after its parent used CUDA cannot use it; start workers with the spawn "
            "method"
          : "");
}

#define SCANLIB_CALL(driver, function, ...)                                                          \
  do {                                                                                               \
    if (CudaResult error = (driver).function(__VA_ARGS__)) return refused(driver, #function, error); \
  } while (0)

// ---- programs

// A problem in a context. One that is destroyed may leave its address to another, of the same device or of another.
struct Key {
  CudaContext context;
  int device, tunings;
  std::string problem;  // as far as it is set, without what alters no launch

  Key(CudaContext context_, int device_, const scanlib_problem &of)
      : context(context_),
        device(device_),
        tunings(cuda_tunings()),
        problem(reinterpret_cast<const char *>(&of),
                offsetof(scanlib_problem, outer) + size_t(of.outer_rank) * sizeof(scanlib_axis)) {
    std::memset(&problem[offsetof(scanlib_problem, threads)], 0, sizeof of.threads);
    std::memset(&problem[offsetof(scanlib_problem, holder_offset)], 0, sizeof of.holder_offset);
  }
  bool operator==(const Key &other) const {
    return context == other.context && device == other.device && tunings == other.tunings && problem == other.problem;
  }
};
struct KeyHash {
  size_t operator()(const Key &key) const {
    return std::hash<std::string>()(key.problem) ^ std::hash<CudaContext>()(key.context);
  }
};

// What is worked out once for it: how to run it, its kernels, resident in the context, and on how many blocks they run.
struct Prepared {
  CudaPlan plan;
  CudaKernel kernels[CudaPlan::kMostLaunches];
  unsigned blocks[CudaPlan::kMostLaunches];
};
constexpr size_t kMostPrepared = 4096;  // when there are more, all are forgotten

struct Programs {
  std::shared_mutex lock;
  scanlib_cuda_compiler compiler = nullptr;
  std::map<std::pair<int, std::string>, CudaKernel> kernels;  // by architecture and definitions; never unloaded
  std::unordered_map<Key, std::shared_ptr<const Prepared>, KeyHash> prepared;
};

// Never destroyed: other threads may launch while the process ends.
Programs &programs() {
  static Programs &all = *new Programs;
  return all;
}

// Lets this thread do what a stream capture of its own or of another thread forbids; captures go on.
class OutsideCapture {
 public:
  explicit OutsideCapture(const CudaDriver &driver) : driver_(driver) {
    exchanged_ = driver_.cuThreadExchangeStreamCaptureMode(&mode_) == 0;
  }
  ~OutsideCapture() {
    if (exchanged_) driver_.cuThreadExchangeStreamCaptureMode(&mode_);
  }
  OutsideCapture(const OutsideCapture &) = delete;

 private:
  const CudaDriver &driver_;
  int mode_ = kCudaCaptureRelaxed;
  bool exchanged_;
};

// Compiles and loads a program. Two threads that meet it at once both do; the first one's is kept.
int load(const CudaDriver &driver, const char *definitions, int architecture, CudaKernel *kernel) {
  scanlib_cuda_compiler compiler;
  {
    std::shared_lock<std::shared_mutex> reading(programs().lock);
    compiler = programs().compiler;
  }
  if (!compiler)
    return fail(SCANLIB_E_COMPILER, "no compiler for CUDA kernels was set; scanlib_cuda_set_compiler() takes one");
  const void *image = nullptr;
  size_t size = 0;
  if (int status = compiler(definitions, architecture, &image, &size)) {
    const int kind = status == SCANLIB_E_COMPILER ? SCANLIB_E_COMPILER : SCANLIB_E_COMPILE;
    return fail(kind, "%.*s", image ? int(size) : 0, image ? static_cast<const char *>(image) : "");
  }
  if (!image || !size) return fail(SCANLIB_E_COMPILE, "the compiler gave no program for %s", definitions);
  CudaLibrary library = nullptr;
  SCANLIB_CALL(driver, cuLibraryLoadData, &library, image, nullptr, nullptr, 0, nullptr, nullptr, 0);
  if (CudaResult error = driver.cuLibraryGetKernel(kernel, library, kEntry)) {
    driver.cuLibraryUnload(library);
    return refused(driver, "cuLibraryGetKernel", error);
  }
  std::unique_lock<std::shared_mutex> writing(programs().lock);
  auto [place, added] = programs().kernels.emplace(std::pair(architecture, std::string(definitions)), *kernel);
  if (!added) driver.cuLibraryUnload(library);
  *kernel = place->second;
  return SCANLIB_OK;
}

// The kernel of a program, loaded if it was not yet.
int find(const CudaDriver &driver, const char *definitions, int architecture, CudaKernel *kernel) {
  *kernel = nullptr;
  {
    std::shared_lock<std::shared_mutex> reading(programs().lock);
    auto place = programs().kernels.find(std::pair(architecture, std::string(definitions)));
    if (place != programs().kernels.end()) *kernel = place->second;
  }
  return *kernel ? SCANLIB_OK : load(driver, definitions, architecture, kernel);
}

// For a context that is current.
int prepare(const CudaDriver &driver, const scanlib_problem &problem, int device, Prepared *made) {
  if (int status = plan_cuda(problem, &made->plan)) return status;
  int major = 0, minor = 0, multiprocessors = 0;
  SCANLIB_CALL(driver, cuDeviceGetAttribute, &major, kCudaAttributeMajor, device);
  SCANLIB_CALL(driver, cuDeviceGetAttribute, &minor, kCudaAttributeMinor, device);
  SCANLIB_CALL(driver, cuDeviceGetAttribute, &multiprocessors, kCudaAttributeMultiprocessors, device);
  OutsideCapture outside(driver);
  for (int i = 0; i < made->plan.launches; ++i) {
    const CudaLaunch &launch = made->plan.launch[i];
    if (int status = find(driver, launch.options, 10 * major + minor, &made->kernels[i])) return status;
    CudaFunction function = nullptr;
    SCANLIB_CALL(driver, cuKernelGetFunction, &function, made->kernels[i]);
    made->blocks[i] = launch.blocks;
    if (!launch.persistent) continue;
    int each = 0;
    SCANLIB_CALL(driver, cuOccupancyMaxActiveBlocksPerMultiprocessor, &each, function, int(launch.threads), 0);
    made->blocks[i] = std::min(launch.blocks, unsigned(std::max(1, multiprocessors * each)));
  }
  return SCANLIB_OK;
}

int find_prepared(const CudaDriver &driver, const scanlib_problem &problem, CudaContext context, int device,
                  std::shared_ptr<const Prepared> *found) {
  const Key key(context, device, problem);
  {
    std::shared_lock<std::shared_mutex> reading(programs().lock);
    auto place = programs().prepared.find(key);
    if (place != programs().prepared.end()) return *found = place->second, SCANLIB_OK;
  }
  auto made = std::make_shared<Prepared>();
  if (int status = prepare(driver, problem, device, made.get())) return status;
  *found = made;
  std::unique_lock<std::shared_mutex> writing(programs().lock);
  if (programs().prepared.size() >= kMostPrepared) programs().prepared.clear();
  programs().prepared[key] = std::move(made);
  return SCANLIB_OK;
}

// ---- calls

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
      return refused(driver_, "cuStreamGetCtx", error);
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

int put_on(const CudaDriver &driver, const Prepared &prepared, CudaStream stream, void *scratch,
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
  if (!driver) return fail(SCANLIB_E_NO_GPU, "%s", why);
  Current current(*driver);
  const void *operand = nullptr;
  for (void *pointer : pointers.of) operand = operand ? operand : pointer;
  if (int status = current.enter(stream, operand)) return status;
  int device = 0;
  SCANLIB_CALL(*driver, cuCtxGetDevice, &device);
  std::shared_ptr<const Prepared> prepared;
  if (int status = find_prepared(*driver, problem, current.context, device, &prepared)) return status;
  const CudaPlan &plan = prepared->plan;
  if (plan.scratch_bytes && (!scratch || reinterpret_cast<uintptr_t>(scratch) % kCudaScratchAlignment))
    return SCANLIB_E_ARGUMENT;
  return put_on(*driver, *prepared, stream, scratch, pointers);
}

bool valid(const scanlib_problem *problem) { return problem && problem->abi_version == SCANLIB_ABI_VERSION; }

int run(const scanlib_problem *problem, CudaStream stream, void *scratch, const void *const *given_pointers) {
  last_error[0] = 0;
  if (!valid(problem)) return SCANLIB_E_ARGUMENT;
  CudaPointers pointers;
  if (int status = resolve_pointers(*problem, given_pointers, pointers.of)) return status;
  for (int role = 0; role < SCANLIB_ROLES; ++role)
    if (pointers.of[role] &&
        reinterpret_cast<uintptr_t>(pointers.of[role]) % uintptr_t(dtype_size(problem->dtype[role])))
      return SCANLIB_E_ALIGNMENT;
  try {
    return launch(*problem, stream, scratch, pointers);
  } catch (const std::bad_alloc &) {
    return SCANLIB_E_MEMORY;
  } catch (...) {
    return fail(SCANLIB_E_CUDA, "a lock of the operating system failed");
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

extern "C" void scanlib_cuda_set_compiler(scanlib_cuda_compiler compiler) {
  std::unique_lock<std::shared_mutex> writing(programs().lock);
  programs().compiler = compiler;
}

extern "C" const char *scanlib_cuda_last_error(void) { return last_error; }

extern "C" int scanlib_cuda_use_driver(const char *path) {
  if (int status = use_cuda_driver(path)) return status;
  std::unique_lock<std::shared_mutex> writing(programs().lock);
  programs().kernels.clear();
  programs().prepared.clear();
  return SCANLIB_OK;
}
