// Elements of every dtype as numbers: conversion, and the relative error of rounding to a dtype.
#pragma once
#include <cmath>
#include <cstdint>

namespace scanlib_tests {

using Real = long double;

struct Number {
  Real re = 0, im = 0;
};

inline Real magnitude(Number v) { return std::fabs(v.re) + std::fabs(v.im); }
inline bool finite(Number v) { return std::isfinite(v.re) && std::isfinite(v.im); }
inline Number add(Number a, Number b) { return {a.re + b.re, a.im + b.im}; }

Number load(int32_t dtype, const unsigned char *at);

// Only for inputs, where truncation to 16 bits is as good as rounding.
void store(int32_t dtype, unsigned char *at, double re, double im);

// Of offsets; what is stored is cut to the dtype's bits.
int64_t load_integer(int32_t dtype, const unsigned char *at);
void store_integer(int32_t dtype, unsigned char *at, int64_t value);

bool is_double(int32_t dtype);
Real rounding(int32_t dtype);
Real smallest(int32_t dtype);
Real largest(int32_t dtype);

}  // namespace scanlib_tests
