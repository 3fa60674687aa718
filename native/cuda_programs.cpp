#include "cuda_programs.h"

#include <algorithm>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <utility>

namespace scanlib {
namespace {

constexpr const char *kEntry = "scanlib_kernel";

thread_local char last_error[8192];

}  // namespace

int cuda_failure(int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
  return status;
}

int cuda_refusal(const CudaDriver &driver, const char *call, CudaResult error) {
  const char *name = nullptr, *text = nullptr;
  driver.cuGetErrorName(error, &name);
  driver.cuGetErrorString(error, &text);
  return cuda_failure(
      SCANLIB_E_CUDA, "%s returned %s (%s)%s", call, name ? name : "an unknown error", text ? text : "",
      error == kCudaErrorNotInitialized
          ? ": a process that was forked after its parent used CUDA cannot use it; start workers with the spawn "
            "method"
          : "");
}

const char *cuda_last_failure() { return last_error; }
void forget_cuda_failure() { last_error[0] = 0; }

namespace {

// A problem in a context. One that is destroyed may leave its address to another, of the same device or of another.
struct Key {
  CudaContext context;
  int device;
  std::string problem;  // as far as it is set, without what alters no launch

  Key(CudaContext context_, int device_, const scanlib_problem &of)
      : context(context_),
        device(device_),
        problem(reinterpret_cast<const char *>(&of),
                offsetof(scanlib_problem, outer) + size_t(of.outer_rank) * sizeof(scanlib_axis)) {
    std::memset(&problem[offsetof(scanlib_problem, threads)], 0, sizeof of.threads);
    std::memset(&problem[offsetof(scanlib_problem, holder_offset)], 0, sizeof of.holder_offset);
  }
  bool operator==(const Key &other) const {
    return context == other.context && device == other.device && problem == other.problem;
  }
};
struct KeyHash {
  size_t operator()(const Key &key) const {
    return std::hash<std::string>()(key.problem) ^ std::hash<CudaContext>()(key.context);
  }
};

constexpr size_t kMostPrepared = 4096;  // when there are more, all are forgotten

struct Programs {
  std::shared_mutex lock;
  scanlib_cuda_compiler compiler = nullptr;
  std::map<std::pair<int, std::string>, CudaKernel> kernels;  // by architecture and definitions; never unloaded
  std::unordered_map<Key, std::shared_ptr<const CudaPrepared>, KeyHash> prepared;
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
    return cuda_failure(SCANLIB_E_COMPILER,
                        "no compiler for CUDA kernels was set; scanlib_cuda_set_compiler() takes one");
  const void *image = nullptr;
  size_t size = 0;
  if (int status = compiler(definitions, architecture, &image, &size)) {
    const int kind = status == SCANLIB_E_COMPILER ? SCANLIB_E_COMPILER : SCANLIB_E_COMPILE;
    return cuda_failure(kind, "%.*s", image ? int(size) : 0, image ? static_cast<const char *>(image) : "");
  }
  if (!image || !size) return cuda_failure(SCANLIB_E_COMPILE, "the compiler gave no program for %s", definitions);
  CudaLibrary library = nullptr;
  SCANLIB_CALL(driver, cuLibraryLoadData, &library, image, nullptr, nullptr, 0, nullptr, nullptr, 0);
  if (CudaResult error = driver.cuLibraryGetKernel(kernel, library, kEntry)) {
    driver.cuLibraryUnload(library);
    return cuda_refusal(driver, "cuLibraryGetKernel", error);
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
int prepare(const CudaDriver &driver, const scanlib_problem &problem, int device, CudaPrepared *made) {
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
    const unsigned most = unsigned(std::max(0, multiprocessors * each));
    if (most < launch.least_blocks)
      return cuda_failure(SCANLIB_E_CUDA,
                          "this problem needs a GPU that holds %u blocks of its kernel at once, and this holds %u",
                          launch.least_blocks, most);
    made->blocks[i] = std::min(launch.blocks, most);
  }
  return SCANLIB_OK;
}

}  // namespace

int prepare_cuda(const CudaDriver &driver, const scanlib_problem &problem, CudaContext context, int device,
                 std::shared_ptr<const CudaPrepared> *found) {
  const Key key(context, device, problem);
  {
    std::shared_lock<std::shared_mutex> reading(programs().lock);
    auto place = programs().prepared.find(key);
    if (place != programs().prepared.end()) return *found = place->second, SCANLIB_OK;
  }
  auto made = std::make_shared<CudaPrepared>();
  if (int status = prepare(driver, problem, device, made.get())) return status;
  *found = made;
  std::unique_lock<std::shared_mutex> writing(programs().lock);
  if (programs().prepared.size() >= kMostPrepared) programs().prepared.clear();
  programs().prepared[key] = std::move(made);
  return SCANLIB_OK;
}

void forget_cuda_programs() {
  std::unique_lock<std::shared_mutex> writing(programs().lock);
  programs().kernels.clear();
  programs().prepared.clear();
}

}  // namespace scanlib

extern "C" void scanlib_cuda_set_compiler(scanlib_cuda_compiler compiler) {
  std::unique_lock<std::shared_mutex> writing(scanlib::programs().lock);
  scanlib::programs().compiler = compiler;
}

extern "C" const char *scanlib_cuda_last_error(void) { return scanlib::cuda_last_failure(); }
