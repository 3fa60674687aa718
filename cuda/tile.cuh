// A tile: the elements a block works on at a time, kWidth lanes by kSlices slices of kRun steps. A thread owns kRun consecutive
// steps of one lane and keeps them in registers.
//
//   threadIdx.x = slice * kWidth + lane      so a warp holds all kWarpSlices slices of kWarpLanes lanes
//
// Between memory and registers a warp moves its part of the tile, kWarpLanes lanes by kWarpSteps steps, on its own:
//   columns  lanes lie side by side in memory: each thread loads its own elements, neighbours together
//   rows     steps lie side by side: a warp loads 32 neighbouring steps at a time and passes them on through shared memory
//   narrow   few lanes lie side by side, then the next step's: the same, in the order step by step
// Strides are obeyed in each, so any layout comes out right in any of them; it is only a matter of which addresses are
// neighbours.
#pragma once
#include "elements.h"
#include "machine.cuh"
#include "params.h"

namespace scanlib {

constexpr int kColumns = 0, kRows = 1, kNarrow = 2;
constexpr int kLayout = SCANLIB_LAYOUT;
constexpr int kThreads = SCANLIB_THREADS, kWidth = SCANLIB_WIDTH, kRun = SCANLIB_RUN;
constexpr int kWarps = kThreads / 32;
constexpr int kSlices = kThreads / kWidth;
constexpr int kTileSteps = kSlices * kRun;
constexpr int kWarpLanes = kWidth < 32 ? kWidth : 32;
constexpr int kWarpSlices = 32 / kWarpLanes;
constexpr int kWarpSteps = kWarpSlices * kRun;
static_assert(kThreads % 32 == 0 && kThreads % kWidth == 0 && (kWidth & (kWidth - 1)) == 0, "a tile of whole warps");
static_assert(kWidth <= 32 || kSlices == 1, "wide tiles are not scanned");
static_assert((kRun & (kRun - 1)) == 0, "runs are powers of two");

template <int dtype>
struct ElementOf;
template <>
struct ElementOf<1> {
  using type = Half;
};
template <>
struct ElementOf<2> {
  using type = Brain;
};
template <>
struct ElementOf<3> {
  using type = float;
};
template <>
struct ElementOf<4> {
  using type = double;
};
template <>
struct ElementOf<5> {
  using type = Complex<float>;
};
template <>
struct ElementOf<6> {
  using type = Complex<double>;
};

// Of the size of an element, and aligned to it: one access.
template <class E>
struct alignas(sizeof(E)) Aligned {
  E value;
};
template <class E>
__device__ __forceinline__ E load_element(const char *at) {
  return reinterpret_cast<const Aligned<E> *>(at)->value;
}
template <class E>
__device__ __forceinline__ void store_element(char *at, E value) {
  *reinterpret_cast<Aligned<E> *>(at) = {value};
}

template <class T, class E>
__device__ __forceinline__ T widened(E element) {
  T value;
  convert(value, element);
  return value;
}
template <class E, class T>
__device__ __forceinline__ E narrowed(T value) {
  E element;
  convert(element, value);
  return element;
}

// The dtype of a state is known at run time only.
template <class T>
__device__ T load_value(int dtype, const char *at) {
  switch (dtype) {
    case 1:
      return widened<T>(load_element<Half>(at));
    case 2:
      return widened<T>(load_element<Brain>(at));
    case 3:
      return widened<T>(load_element<float>(at));
    case 4:
      return widened<T>(load_element<double>(at));
    case 5:
      return widened<T>(load_element<Complex<float>>(at));
    default:
      return widened<T>(load_element<Complex<double>>(at));
  }
}
template <class T>
__device__ void store_value(int dtype, char *at, T value) {
  switch (dtype) {
    case 1:
      return store_element(at, narrowed<Half>(value));
    case 2:
      return store_element(at, narrowed<Brain>(value));
    case 3:
      return store_element(at, narrowed<float>(value));
    case 4:
      return store_element(at, narrowed<double>(value));
    case 5:
      return store_element(at, narrowed<Complex<float>>(value));
    default:
      return store_element(at, narrowed<Complex<double>>(value));
  }
}

// ------------------------------------------------------------------------------------------------------------- places

__device__ __forceinline__ int thread() { return int(threadIdx.x); }
__device__ __forceinline__ int warp() { return thread() / 32; }
__device__ __forceinline__ int slice() { return thread() / kWidth; }
__device__ __forceinline__ int lane() { return thread() % kWidth; }

// The first lane and step of a warp's part of the tile.
__device__ __forceinline__ int warp_lane() { return kWidth > 32 ? warp() * 32 : 0; }
__device__ __forceinline__ int warp_step() { return kWidth > 32 ? 0 : warp() * kWarpSteps; }

// Element i that a thread moves is lane moved_lane() + lane_of(i) of that part, at step moved_step() + step_of(i).
__device__ __forceinline__ int moved_lane() {
  const int t = thread() % 32;
  return kLayout == kRows ? t / kWarpSteps : t % kWarpLanes;
}
__device__ __forceinline__ int moved_step() {
  const int t = thread() % 32;
  return kLayout == kRows ? t % kWarpSteps : kLayout == kNarrow ? t / kWarpLanes : t / kWarpLanes * kRun;
}
__device__ constexpr int lane_of(int i) { return kLayout == kRows ? i * 32 / kWarpSteps : 0; }
__device__ constexpr int step_of(int i) {
  return kLayout == kRows ? i * 32 % kWarpSteps : kLayout == kNarrow ? i * kWarpSlices : i;
}

// One group: where its operands lie, how many of its lanes there are.
struct Group {
  long long outer[kOuterAxes];
  long long chunk;
  int lanes;
};

// 64-bit division takes a hundred instructions, and is hardly ever needed.
__device__ __forceinline__ long long divided(long long &number, long long by) {
  long long quotient;
  if (((number | by) >> 32) == 0) {
    quotient = unsigned(number) / unsigned(by);
  } else {
    quotient = number / by;
  }
  long long remainder = number - quotient * by;
  number = quotient;
  return remainder;
}

__device__ __forceinline__ Group group_at(const ScanParams &p, long long number) {
  Group group;
  group.chunk = divided(number, p.chunks);
#pragma unroll
  for (int d = kOuterAxes - 1; d >= 0; --d) group.outer[d] = d < p.rank ? divided(number, p.extent[d]) : 0;
  const long long left = p.lanes - group.chunk * kWidth;
  group.lanes = int(left < kWidth ? left : kWidth);
  return group;
}

// Lane 0, step 0 of a group in an operand.
__device__ __forceinline__ char *first_of(const ScanParams &p, const Operand &operand, const Group &group) {
  char *at = operand.first + group.chunk * operand.chunk;
#pragma unroll
  for (int d = 0; d < kOuterAxes; ++d)
    if (d < p.rank) at += group.outer[d] * operand.outer[d];
  return at;
}

// ------------------------------------------------------------------------------------------------------------- moving

// How much of [0, kTileSteps) lies below `end`.
__device__ __forceinline__ int steps_below(long long end) {
  return int(end < 0 ? 0 : end < kTileSteps ? end : kTileSteps);
}

// Calls use(i, address, exists) for each element of a thread's share of its warp's part of the tile, whose step 0 is at `first`:
// it exists where `low` <= step < `high` and lane < `lanes`. One address is stepped along, which takes the fewest registers.
template <class Use>
__device__ __forceinline__ void each_moved(const char *first, const Operand &operand, int low, int high, int lanes,
                                           Use use) {
  const int step0 = warp_step() + moved_step(), lane0 = warp_lane() + moved_lane();
  const char *at = first + step0 * operand.step + lane0 * operand.lane;
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const int step = step0 + step_of(i);
    use(i, at, step >= low && step < high && lane0 + lane_of(i) < lanes);
    at += (step_of(i + 1) - step_of(i)) * operand.step + (lane_of(i + 1) - lane_of(i)) * operand.lane;
  }
}

// Elements in the order in which they are moved, `fill` where there are none. Only loads: several can be under way.
template <class E>
__device__ __forceinline__ void fetch(E (&to)[kRun], const char *first, const Operand &operand, int low, int high,
                                      int lanes, E fill) {
  each_moved(first, operand, low, high, lanes, [&](int i, const char *at, bool exists) {
    to[i] = fill;
    if (exists) to[i] = load_element<E>(at);
  });
}
template <class E>
__device__ __forceinline__ void put_back(const E (&from)[kRun], char *first, const Operand &operand, int high,
                                         int lanes) {
  each_moved(first, operand, 0, high, lanes, [&](int i, const char *at, bool exists) {
    if (exists) store_element(const_cast<char *>(at), from[i]);
  });
}

// What a warp passes elements on through: one element left out after each run, so that 32 threads at the same place of
// their runs meet 32 banks.
template <class T>
struct Exchange {
  static constexpr bool kUsed = kLayout != kColumns;
  T of[kUsed ? kWarps : 1][kUsed ? 32 * (kRun + 1) : 1];

  static __device__ __forceinline__ int at(int lane_, int step) {
    const int place = lane_ * kWarpSteps + step;
    return place + place / kRun;
  }
  static __device__ __forceinline__ int own(int i) { return thread() % 32 / kWarpLanes * kRun + i; }
};

// From the order of moving to the thread's own run, and back.
template <class T, class E>
__device__ __forceinline__ void arrange(T (&to)[kRun], const E (&from)[kRun], Exchange<T> &exchange) {
  if constexpr (kLayout == kColumns) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) to[i] = widened<T>(from[i]);
  } else {
    T *through = exchange.of[warp()];
#pragma unroll
    for (int i = 0; i < kRun; ++i)
      through[Exchange<T>::at(moved_lane() + lane_of(i), moved_step() + step_of(i))] = widened<T>(from[i]);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kRun; ++i) to[i] = through[Exchange<T>::at(thread() % kWarpLanes, Exchange<T>::own(i))];
    __syncwarp();
  }
}
template <class E, class T>
__device__ __forceinline__ void store_run(const T (&values)[kRun], char *first, const Operand &operand, int high,
                                          int lanes, Exchange<T> &exchange) {
  E moved[kRun];
  if constexpr (kLayout == kColumns) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) moved[i] = narrowed<E>(values[i]);
  } else {
    T *through = exchange.of[warp()];
#pragma unroll
    for (int i = 0; i < kRun; ++i) through[Exchange<T>::at(thread() % kWarpLanes, Exchange<T>::own(i))] = values[i];
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kRun; ++i)
      moved[i] = narrowed<E>(through[Exchange<T>::at(moved_lane() + lane_of(i), moved_step() + step_of(i))]);
    __syncwarp();
  }
  put_back(moved, first, operand, high, lanes);
}

}  // namespace scanlib
