#include "dtypes.h"

#include <cstring>
#include <limits>

#include "scanlib.h"

namespace scanlib_tests {
namespace {

double half_to_double(uint16_t bits) {
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double value = exponent == 31  ? (fraction ? NAN : INFINITY)
                 : exponent == 0 ? std::ldexp(fraction, -24)
                                 : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 ? -value : value;
}

double bfloat_to_double(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

}  // namespace

Number load(int32_t dtype, const unsigned char *at) {
  uint16_t bits;
  float f[2] = {0, 0};
  double d[2] = {0, 0};
  switch (dtype) {
    case SCANLIB_F16:
      std::memcpy(&bits, at, 2);
      return {Real(half_to_double(bits)), 0};
    case SCANLIB_BF16:
      std::memcpy(&bits, at, 2);
      return {Real(bfloat_to_double(bits)), 0};
    case SCANLIB_F32:
    case SCANLIB_C64:
      std::memcpy(f, at, dtype == SCANLIB_F32 ? 4 : 8);
      return {Real(f[0]), Real(f[1])};
    default:
      std::memcpy(d, at, dtype == SCANLIB_F64 ? 8 : 16);
      return {Real(d[0]), Real(d[1])};
  }
}

void store(int32_t dtype, unsigned char *at, double re, double im) {
  float f[2] = {float(re), float(im)};
  double d[2] = {re, im};
  uint32_t wide;
  std::memcpy(&wide, &f[0], 4);
  uint16_t bits = uint16_t(wide >> 16);
  switch (dtype) {
    case SCANLIB_F16: {
      int exponent = int(wide >> 23 & 255) - 127 + 15;
      uint16_t sign = uint16_t(wide >> 16 & 0x8000);
      bits = std::isnan(re)  ? 0x7e00
             : exponent > 30 ? uint16_t(sign | 0x7c00)
             : exponent <= 0 ? uint16_t(sign | uint16_t(std::ldexp(std::fabs(re), 24)))
                             : uint16_t(sign | exponent << 10 | (wide >> 13 & 1023));
      std::memcpy(at, &bits, 2);
      break;
    }
    case SCANLIB_BF16:
      if (std::isnan(re)) bits = 0x7fc0;
      std::memcpy(at, &bits, 2);
      break;
    case SCANLIB_F32:
    case SCANLIB_C64:
      std::memcpy(at, f, dtype == SCANLIB_F32 ? 4 : 8);
      break;
    default:
      std::memcpy(at, d, dtype == SCANLIB_F64 ? 8 : 16);
  }
}

int64_t load_integer(int32_t dtype, const unsigned char *at) {
  int64_t wide;
  int32_t narrow;
  if (dtype == SCANLIB_I64) return std::memcpy(&wide, at, sizeof wide), wide;
  return std::memcpy(&narrow, at, sizeof narrow), narrow;
}

void store_integer(int32_t dtype, unsigned char *at, int64_t value) {
  const int32_t narrow = int32_t(value);
  if (dtype == SCANLIB_I64)
    std::memcpy(at, &value, sizeof value);
  else
    std::memcpy(at, &narrow, sizeof narrow);
}

bool is_double(int32_t dtype) { return dtype == SCANLIB_F64 || dtype == SCANLIB_C128; }

Real rounding(int32_t dtype) {
  switch (dtype) {
    case SCANLIB_F16:
      return 0x1p-10L;
    case SCANLIB_BF16:
      return 0x1p-7L;
    default:
      return is_double(dtype) ? 0x1p-52L : 0x1p-23L;
  }
}

Real smallest(int32_t dtype) {
  return dtype == SCANLIB_F16 ? 0x1p-24L
         : is_double(dtype)   ? Real(std::numeric_limits<double>::denorm_min())
                              : 0x1p-126L;
}

Real largest(int32_t dtype) { return dtype == SCANLIB_F16 ? 65504 : std::numeric_limits<float>::max(); }

}  // namespace scanlib_tests
