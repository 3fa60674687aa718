// One call through the C interface, checked against a serial loop.
//
// Every operand lies in memory of exactly the size its strides reach, so that an address sanitizer sees any step outside.
// Each call is made twice, with one thread and with several, over outputs poisoned in two ways: the bits must agree, every
// element must have been written, no byte between the elements may have been.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "scanlib.h"

namespace scanlib_tests {

// Seconds after which a program hangs for certain, however busy or slow the machine, or emulated.
constexpr unsigned kHang = 1800;

enum class Values { kUnit, kSigns, kNearOne, kSpecial };

struct Operand {
  int32_t dtype = SCANLIB_ABSENT;
  std::vector<int64_t> strides;  // in slots, one for each axis of the shape
  int misaligned = 0;            // bytes
  int gap = 0;                   // bytes between two slots, as other fields of a record are

  int64_t pitch() const;  // bytes from slot to slot
};

struct Case {
  std::vector<int64_t> shape;
  int32_t axis = 0;
  int32_t flags = 0;
  bool backward = false;
  bool in_place = false;  // h is x
  bool holders = false;   // pass objects that hold the pointers, as for NumPy arrays
  int32_t threads = 2;
  Values values = Values::kUnit;
  uint64_t seed = 1;
  int64_t segments = 0;  // where there are OFFSETS: drawn in order, some of them often without steps
  int32_t resets = 0;    // where there is RESET: about so many of 65536 bytes are true
  Operand operand[SCANLIB_ROLES];

  bool given(int role) const { return operand[role].dtype != SCANLIB_ABSENT; }
  // How many elements an operand has along each axis. A summed grad_a has one, over an empty axis too.
  std::vector<int64_t> extents(int role) const;
};

// A small generator of pseudo-random numbers (SplitMix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return int64_t(bits() % uint64_t(n)); }
  double unit() { return double(int64_t(bits())) * 0x1p-63; }  // in [-1, 1]

 private:
  uint64_t state_;
};

int dtype_bytes(int32_t dtype);
bool is_complex(int32_t dtype);
bool is_state(int role);
bool is_used(int role, bool backward);
bool is_start(int role);  // RESET or OFFSETS
bool is_output(int role, bool backward);
const char *role_name(int role);

// Strides of memory without holes and in C order.
std::vector<int64_t> contiguous(const std::vector<int64_t> &extents);

// Whether the library kept its word for this call: "" or what was wrong.
std::string check(const Case &c);

// Whether it refuses a call whose OFFSETS, of which one has another value, lie, and writes nothing: "" or what was wrong.
std::string check_lie(const Case &c, int64_t number, int64_t value);

// The case in words, to repeat a failure by hand.
std::string describe(const Case &c);

}  // namespace scanlib_tests
