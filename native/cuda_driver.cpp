#include "cuda_driver.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "scanlib.h"

namespace scanlib {
namespace {

constexpr const char *kDefault = "libcuda.so.1";

std::mutex loading;
std::atomic<const CudaDriver *> loaded{nullptr};
CudaDriver table;
char chosen[4096];

// Fills `table`; false with the reason in `why`.
bool load(char *why, size_t size) {
  const char *path = chosen[0] ? chosen : kDefault;
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char *error = dlerror();
    std::snprintf(why, size,
                  "the CUDA driver was not found (%s). Arrays on a GPU need NVIDIA's driver on this machine, and in a "
                  "container it has to be passed in",
                  error ? error : path);
    return false;
  }
#define SCANLIB_LOAD(name, arguments)                                                                                \
  if (!(table.name = reinterpret_cast<CudaResult(*) arguments>(dlsym(library, #name)))) {                            \
    std::snprintf(why, size, "the CUDA driver %s is too old: it has no %s. Install a driver for CUDA 12.0 or newer", \
                  path, #name);                                                                                      \
    return false;                                                                                                    \
  }
  SCANLIB_CUDA_FUNCTIONS(SCANLIB_LOAD)
#undef SCANLIB_LOAD
  if (CudaResult error = table.cuInit(0)) {
    const char *name = nullptr, *text = nullptr;
    table.cuGetErrorName(error, &name);
    table.cuGetErrorString(error, &text);
    const char *hint = error == kCudaErrorNoDevice ? "no GPU is visible to this process (CUDA_VISIBLE_DEVICES?)"
                       : error == kCudaErrorNotInitialized
                           ? "a process that was forked after its parent used CUDA cannot use it; start workers with "
                             "the spawn method"
                           : "nvidia-smi may tell more";
    std::snprintf(why, size, "the CUDA driver %s does not start: %s (%s): %s", path, name ? name : "unknown error",
                  text ? text : "no description", hint);
    return false;
  }
  return true;
}

}  // namespace

const CudaDriver *cuda_driver(char *why, size_t size) {
  if (const CudaDriver *driver = loaded.load(std::memory_order_acquire)) return driver;
  std::lock_guard<std::mutex> lock(loading);
  if (!loaded.load(std::memory_order_relaxed)) {
    if (!load(why, size)) return nullptr;
    loaded.store(&table, std::memory_order_release);
  }
  return &table;
}

int use_cuda_driver(const char *path) {
  std::lock_guard<std::mutex> lock(loading);
  if (path && std::strlen(path) >= sizeof chosen) return SCANLIB_E_ARGUMENT;
  std::snprintf(chosen, sizeof chosen, "%s", path ? path : "");
  loaded.store(nullptr, std::memory_order_release);
  return SCANLIB_OK;
}

}  // namespace scanlib
