// The driver's modes that go through small problems on each instruction set.
#include <cstdio>
#include <functional>
#include <numeric>

#include "driver.h"
#include "gated_check.h"

using namespace scanlib_tests;

namespace {

const char *const kIsas[] = {"baseline", "avx2", "avx512", "neon"};

template <class F>
void on_each_isa(F body) {
  for (const char *isa : kIsas)
    if (scanlib_cpu_select_isa(isa) == SCANLIB_OK) body();
}

}  // namespace

void scanlib_tests::sets() {
  on_each_isa([] { std::printf("%s\n", scanlib_cpu_isa()); });
}

void scanlib_tests::cases() {
  const std::vector<int64_t> lengths = {0, 1, 2, 31, 33, 130};
  on_each_isa([&] {
    uint64_t seed = 1;
    for (int32_t dtype : kDtypes)
      for (bool backward : {false, true}) {
        std::vector<Case> all;
        Random random(uint64_t(dtype * 2 + backward));
        auto take = [&](std::vector<int64_t> shape, int32_t axis) {
          std::vector<Case> plain_ones = layouts(shape, axis, dtype, backward);
          for (const Case &c : plain_ones) all.push_back(c);
          const bool heavy = std::accumulate(shape.begin(), shape.end(), int64_t(1), std::multiplies<int64_t>()) > 4000;
          for (const Case &c : with_starts(plain_ones, heavy ? 1 : 2, random)) all.push_back(c);
        };
        for (int64_t T : lengths) {
          take({T}, 0);
          take({3, T}, 1);
          take({T, 5}, 0);
          take({2, T, 37}, 1);
        }
        take({0, 4, 3}, 1);
        take({1, 1, 1}, 1);
        take({2, 3, 2, 7, 2, 3}, 3);
        take({2, 2, 2, 2, 3, 2, 2, 2, 2, 2, 2}, 4);
        take({4099}, 0);     // one long sequence
        take({2, 9001}, 1);  // a few
        take({4001, 3}, 0);  // few channels
        take({65, 67}, 0);   // many channels, columns and rows
        take({65, 67}, 1);
        for (Case &c : all) {
          c.seed = ++seed;
          c.threads = 2 + int32_t(seed % 4);
          run(c);
        }
      }
    // Operands of different dtypes, converted on the fly.
    const int32_t mixed[][2] = {{SCANLIB_F32, SCANLIB_BF16}, {SCANLIB_F32, SCANLIB_C64}, {SCANLIB_F64, SCANLIB_F16}};
    for (auto &[a, x] : mixed)
      for (bool backward : {false, true}) {
        Random random{uint64_t(a)};
        std::vector<Case> all = layouts({3, 200, 11}, 1, x, backward);
        for (Case &c : with_starts(all, 4, random)) all.push_back(std::move(c));
        for (Case &c : all) {
          c.operand[SCANLIB_A].dtype = a;
          if (backward) c.operand[SCANLIB_GRAD_A].dtype = a;
          run(c);
        }
      }
  });
}

void scanlib_tests::gated(int count) {
  on_each_isa([&] {
    for (int i = 0; i < count; ++i) {
      Random random(uint64_t(i) + 1);
      const std::string wrong = check_gates(random);
      if (wrong.empty()) continue;
      if (failures++ < 10) std::fprintf(stderr, "%s\n  in gated recurrence %d\n", wrong.c_str(), i);
    }
  });
}
