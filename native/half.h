// float16 and bfloat16 to float32 and back, rounding to nearest even, on bits alone: the same on every machine.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace scanlib {
namespace {

inline float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float widen_bfloat16(uint16_t h) { return from_bits(uint32_t(h) << 16); }

inline uint16_t narrow_bfloat16(float value) {
  uint32_t bits = to_bits(value);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  uint32_t quiet = (bits >> 16) | 0x40u;  // a NaN stays one
  return uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

inline float widen_float16(uint16_t h) {
  uint32_t sign = uint32_t(h & 0x8000u) << 16, magnitude = h & 0x7fffu;
  // Normal numbers move their exponent from bias 15 to 127; subnormals are exact as a difference of two normals.
  float normal = from_bits((magnitude << 13) + (112u << 23));
  float subnormal = from_bits((113u << 23) + (magnitude << 13)) - from_bits(113u << 23);
  float special = from_bits((magnitude << 13) | 0x7f800000u | (magnitude > 0x7c00u ? 0x400000u : 0u));
  float value = magnitude >= 0x7c00u ? special : magnitude < 0x0400u ? subnormal : normal;
  return from_bits(to_bits(value) | sign);
}

inline uint16_t narrow_float16(float value) {
  uint32_t bits = to_bits(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
  // Below 2^-14: adding 0.5 lines the float16 subnormal's last bit up with the float32's, rounding to nearest even.
  uint32_t subnormal = to_bits(from_bits(magnitude) + 0.5f) - to_bits(0.5f);
  uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x1ffu);
  uint32_t half = magnitude > 0x7f800000u    ? nan
                  : magnitude >= 0x47800000u ? 0x7c00u  // 65536 and above, before rounding up to it
                  : magnitude < 0x38800000u  ? subnormal
                                             : normal;
  return uint16_t(half | sign);
}

}  // namespace
}  // namespace scanlib
