// Chooses the instruction set once, when first asked.
#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "scanlib.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace scanlib {
namespace {

#if defined(__aarch64__)
const InstructionSet &least = neon;
#else
const InstructionSet &least = baseline;
#endif

// The best instruction set this machine has, or with a name that one; null if it is not here.
const InstructionSet *find(const char *name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  unsigned eax, ebx, ecx, edx;  // clang's __builtin_cpu_supports does not know "f16c"
  const bool has_f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
  const bool has_avx2 = has_f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && (!name || !std::strcmp(name, avx512.name))) return &avx512;
  if (has_avx2 && (!name || !std::strcmp(name, avx2.name))) return &avx2;
#endif
  return !name || !std::strcmp(name, least.name) ? &least : nullptr;
}

std::atomic<const InstructionSet *> g_chosen{nullptr};

}  // namespace

const InstructionSet &instruction_set() {
  const InstructionSet *chosen = g_chosen.load(std::memory_order_acquire);
  if (!chosen) {
    chosen = find(std::getenv("SCANLIB_ISA"));
    if (!chosen) chosen = find(nullptr);
    g_chosen.store(chosen, std::memory_order_release);
  }
  return *chosen;
}

}  // namespace scanlib

extern "C" const char *scanlib_cpu_isa(void) { return scanlib::instruction_set().name; }

extern "C" int scanlib_cpu_select_isa(const char *name) {
  const scanlib::InstructionSet *chosen = name ? scanlib::find(name) : nullptr;
  if (!chosen) return SCANLIB_E_ARGUMENT;
  scanlib::g_chosen.store(chosen, std::memory_order_release);
  return SCANLIB_OK;
}
