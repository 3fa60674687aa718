// Feeds the fuzz target pseudo-random bytes where there is no libFuzzer: fuzz_abi COUNT SEED [FIRST]. A failure is
// repeated by giving FIRST, the input it began with.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

namespace {
uint64_t input = 0;
void report() { std::fprintf(stderr, "input %llu\n", static_cast<unsigned long long>(input)); }
}  // namespace

#include <csignal>
extern "C" void on_abort(int) {
  report();
  std::signal(SIGABRT, SIG_DFL);
  std::raise(SIGABRT);
}

int main(int argc, char **argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: %s COUNT SEED [FIRST]\n", argv[0]), 2;
  const uint64_t count = std::strtoull(argv[1], nullptr, 10), seed = std::strtoull(argv[2], nullptr, 10),
                 first = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0;
  std::signal(SIGABRT, on_abort);
  alarm(scanlib_tests::kHang);
  uint8_t bytes[512];
  for (input = first; input < first + count; ++input) {
    scanlib_tests::Random random(seed * 0x100000001b3u + input);
    const size_t size = size_t(64 + random.below(448));
    for (size_t i = 0; i < size; ++i) bytes[i] = uint8_t(random.bits() >> 32);
    LLVMFuzzerTestOneInput(bytes, size);
  }
  std::printf("%llu inputs\n", static_cast<unsigned long long>(count));
}
