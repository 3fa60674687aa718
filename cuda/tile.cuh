// A tile: the elements a block works on at a time, kWidth lanes by kSlices slices of kRun steps. A thread owns kRun consecutive
// steps of one lane and keeps them in registers.
//
//   threadIdx.x = slice * kWidth + lane      so a warp holds all kWarpSlices slices of kWarpLanes lanes
//
// A warp moves its own part of the tile, kWarpLanes lanes by kWarpSlices * kRun steps, between global and shared memory: 16
// bytes at a time where an operand's strides and address allow it, else element by element, and always so that neighbouring
// threads move neighbouring addresses. What lies side by side in memory is
//   columns  the lanes of a step
//   rows     the steps of a lane
// Strides are obeyed in both, so any view comes out right in either.
#pragma once
#include "elements.h"
#include "machine.cuh"
#include "params.h"

namespace scanlib {

constexpr bool kRows = SCANLIB_LAYOUT == 1;
constexpr bool kDown = SCANLIB_DOWN;  // rows whose later steps lie at lower addresses
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

__device__ __forceinline__ int thread() { return anew(int(threadIdx.x)); }
__device__ __forceinline__ int warp() { return thread() / 32; }
__device__ __forceinline__ int slice() { return thread() / kWidth; }
__device__ __forceinline__ int lane() { return thread() % kWidth; }

// The first lane and step of a warp's part of the tile, and the thread's lane and slice in it.
__device__ __forceinline__ int warp_lane() { return kWidth > 32 ? warp() * 32 : 0; }
__device__ __forceinline__ int warp_step() { return kWidth > 32 ? 0 : warp() * kWarpSteps; }
__device__ __forceinline__ int own_lane() { return thread() % kWarpLanes; }
__device__ __forceinline__ int own_slice() { return thread() % 32 / kWarpLanes; }

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

// One tile: where its operands lie. Found by one thread for each operand, and kept in shared memory.
struct Place {
  char *first[kRoles];  // lane 0, step 0 of the tile
  long long group, tile;
  int lanes;  // of the group
};

// By the first kRoles threads of a warp; `part` is what grad_a's step counts where it is summed over steps.
template <bool kSumSteps>
__device__ __forceinline__ void find_place(const ScanParams &p, Place &place, long long group, long long tile,
                                           long long part) {
  static_assert(kRoles <= 32, "a thread for each");
  const int role = thread() % 32;
  if (role >= kRoles) return;
  const Operand &operand = p.operand[role];
  long long number = group;
  const long long chunk = divided(number, p.chunks), left = p.lanes - chunk * kWidth;
  if (role == 0) {
    place.group = group;
    place.tile = tile;
    place.lanes = int(left < kWidth ? left : kWidth);
  }
  char *first = operand.first + chunk * operand.chunk;
#pragma unroll 1
  for (int d = p.rank - 1; d >= 0; --d) first += divided(number, p.extent[d]) * operand.outer[d];
  const long long step = kSumSteps && role == kGradA ? part : tile * kTileSteps;
  place.first[role] = first + step * operand.step;
}

// How much of [0, kTileSteps) lies below `end`.
__device__ __forceinline__ int steps_below(long long end) {
  return int(end < 0 ? 0 : end < kTileSteps ? end : kTileSteps);
}

// ------------------------------------------------------------------------------------------------------------- moving

// A warp's part of a tile in shared memory, of kEach steps a thread: an array of bytes and where each element lies in it.
//
// Rows: one run after the other, in memory's order, an odd number of 16-byte words apart, so that threads that read the same
// word of their runs meet all banks. Columns: the lanes of one step, then the next step's, with a gap between slices.
template <class E, int kEach>
struct Part {
  static constexpr int kSize = sizeof(E), kRunBytes = kEach * kSize, kStepBytes = kWarpLanes * kSize;
  static constexpr int kStride = kRunBytes % 16 ? kRunBytes + kSize : (kRunBytes / 16 | 1) * 16;
  static constexpr int kSliceBytes = kEach * kStepBytes + (kWarpSlices > 1 ? kStepBytes : 0);
  static constexpr int kBytes = ((kRows ? 32 * kStride : kWarpSlices * kSliceBytes) + 15) / 16 * 16;
  // Whether it consists of 16-byte words that lie in memory as they do here.
  static constexpr bool kWords = (kRows ? kRunBytes : kStepBytes) % 16 == 0;

  static __device__ __forceinline__ int at(int lane_, int slice_, int i) {
    if constexpr (kRows) {
      const int run = lane_ * kWarpSlices + (kDown ? kWarpSlices - 1 - slice_ : slice_);
      return run * kStride + (kDown ? kEach - 1 - i : i) * kSize;
    } else {
      return slice_ * kSliceBytes + i * kStepBytes + lane_ * kSize;
    }
  }

  // The thread's own run.
  static __device__ __forceinline__ void read(E (&to)[kEach], const char *part) {
    own<true>(to, const_cast<char *>(part));
  }
  static __device__ __forceinline__ void write(E (&from)[kEach], char *part) { own<false>(from, part); }

  // Calls use(address, offset, step, lane) for each 16-byte word that a thread moves between an operand whose step 0 is at `first`
  // and the part; `step` and `lane` are those of its first element. The part has the steps from `from` on of each run. One address
  // is stepped along, which takes the fewest registers.
  template <class Use>
  static __device__ __forceinline__ void each_word(const char *first, const Operand &operand, int from, Use use) {
    constexpr int kPer = 16 / kSize, kCount = 32 * kEach / kPer;
    const long long by_step = kRows ? (kDown ? -kSize : kSize) : operand.step;
    const long long by_lane = kRows ? operand.lane : kSize;
    const int t = thread() % 32;
    const int step0 = step_of<kPer>(t, from), lane0 = lane_of<kPer>(t);
    const char *at = first + step0 * by_step + lane0 * by_lane;
#pragma unroll
    for (int r = 0; r < (kCount + 31) / 32; ++r) {
      const int step = step0 + step_of<kPer>(32 * r, 0) - step_of<kPer>(0, 0), lane_ = lane0 + lane_of<kPer>(32 * r);
      if (kCount >= 32 || t < kCount) use(at, offset_of<kPer>(t) + offset_of<kPer>(32 * r), step, lane_);
      at += (step_of<kPer>(32 * r + 32, 0) - step_of<kPer>(32 * r, 0)) * by_step +
            (lane_of<kPer>(32 * r + 32) - lane_of<kPer>(32 * r)) * by_lane;
    }
  }

  // The same element by element, a few at a time: first load(i, ...) for each of them, then store(i, ...).
  static constexpr int kFew = kEach < 4 ? kEach : 4;
  template <class Load, class Store>
  static __device__ __forceinline__ void each_element(const char *first, const Operand &operand, int from, Load load,
                                                      Store store) {
    const int t = thread() % 32;
#pragma unroll 1
    for (int begin = t; begin < 32 * kEach; begin += 32 * kFew) {
#pragma unroll
      for (int i = 0; i < kFew; ++i) {
        const int piece = begin + 32 * i, step = step_of<1>(piece, from), lane_ = lane_of<1>(piece);
        load(i, first + step * operand.step + lane_ * operand.lane, offset_of<1>(piece), step, lane_);
      }
#pragma unroll
      for (int i = 0; i < kFew; ++i) {
        const int piece = begin + 32 * i;
        store(i, offset_of<1>(piece), step_of<1>(piece, from), lane_of<1>(piece));
      }
    }
  }

 private:
  // Of the piece of that number: sums over the bits of the number, so that a thread's own and a round's are added up.
  template <int kPer>
  static __device__ constexpr int lane_of(int piece) {
    return kRows ? piece / (kWarpSlices * kEach / kPer) : piece % (kWarpLanes / kPer) * kPer;
  }
  template <int kPer>
  static __device__ constexpr int place_of(int piece) {  // its step in the part; in rows counted in memory's order
    return kRows ? piece % (kWarpSlices * kEach / kPer) * kPer : piece / (kWarpLanes / kPer);
  }
  template <int kPer>
  static __device__ constexpr int step_of(int piece, int from) {
    const int place = place_of<kPer>(piece);
    return kRows ? (kDown ? kWarpSteps - 1 - place : place) : place / kEach * kRun + place % kEach + from;
  }
  template <int kPer>
  static __device__ constexpr int offset_of(int piece) {
    const int place = place_of<kPer>(piece), slice_ = place / kEach, i = place % kEach, lane_ = lane_of<kPer>(piece);
    return kRows ? (lane_ * kWarpSlices + slice_) * kStride + i * kSize
                 : slice_ * kSliceBytes + i * kStepBytes + lane_ * kSize;
  }

  template <bool kRead>
  static __device__ __forceinline__ void own(E (&values)[kEach], char *part) {
    if constexpr (kRows && kRunBytes % 16 == 0) {
      constexpr int kPer = 16 / kSize;
      const int last = kDown ? kEach - 1 : 0;
      char *run = part + at(own_lane(), own_slice(), last);
#pragma unroll
      for (int w = 0; w < kEach / kPer; ++w) {
        union {
          Bytes<16> word;
          E element[kPer];
        } both;
        if (kRead) both.word = reinterpret_cast<const Bytes<16> *>(run)[w];
#pragma unroll
        for (int e = 0; e < kPer; ++e) {
          E &value = values[kDown ? kEach - 1 - (w * kPer + e) : w * kPer + e];
          if (kRead)
            value = both.element[e];
          else
            both.element[e] = value;
        }
        if (!kRead) reinterpret_cast<Bytes<16> *>(run)[w] = both.word;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        char *at_i = part + at(own_lane(), own_slice(), i);
        if (kRead)
          values[i] = load_element<E>(at_i);
        else
          store_element(at_i, values[i]);
      }
    }
  }
};

// Which elements of a warp's part there are: low <= step < high, lane < lanes, counted from the part's first.
struct Extent {
  int low, high, lanes;
};

// Whether this tile's share of an operand is moved in 16-byte words: in rows the last may end inside of one.
template <class E>
__device__ __forceinline__ bool in_words(const Operand &operand, const Extent &extent) {
  return operand.wide && (!kRows || extent.high % (16 / int(sizeof(E))) == 0);
}

// Starts copies of a warp's part of an operand, whose first element is at `first`.
template <class E>
__device__ __forceinline__ void start_part(char *to, const char *first, const Operand &operand, const Extent &extent) {
  using P = Part<E, kRun>;
  auto exists = [&](int step, int lane_) { return step >= extent.low && step < extent.high && lane_ < extent.lanes; };
  if constexpr (P::kWords) {
    if (in_words<E>(operand, extent)) {
      P::each_word(first, operand, 0, [&](const char *at, int offset, int step, int lane_) {
        if (exists(step, lane_)) start_copy<16>(to + offset, at);
      });
      return;
    }
  }
  E held[P::kFew];  // too small for copies of their own
  P::each_element(
      first, operand, 0,
      [&](int i, const char *at, int offset, int step, int lane_) {
        if (!exists(step, lane_)) return;
        if constexpr (sizeof(E) < 4)
          held[i] = load_element<E>(at);
        else
          start_copy<sizeof(E)>(to + offset, at);
      },
      [&](int i, int offset, int step, int lane_) {
        if (sizeof(E) < 4 && exists(step, lane_)) store_element(to + offset, held[i]);
      });
}

template <class Word>
__device__ __forceinline__ void put_word(const char *part, const Extent &extent, const char *at, int offset, int step,
                                         int lane) {
  if (step < extent.high && lane < extent.lanes)
    *reinterpret_cast<Word *>(const_cast<char *>(at)) = *reinterpret_cast<const Word *>(part + offset);
}

// Stores the steps from `from` on of each run, kEach of them, from shared memory.
template <class E, int kEach>
__device__ __forceinline__ void put_part(const char *part, char *first, const Operand &operand, const Extent &extent,
                                         int from) {
  using P = Part<E, kEach>;
  if constexpr (P::kWords) {
    if (in_words<E>(operand, extent)) {
      P::each_word(first, operand, from, [&](const char *at, int offset, int step, int lane_) {
        put_word<Bytes<16>>(part, extent, at, offset, step, lane_);
      });
      return;
    }
  }
  P::each_element(
      first, operand, from,
      [&](int, const char *at, int offset, int step, int lane_) {
        put_word<Bytes<sizeof(E)>>(part, extent, at, offset, step, lane_);
      },
      [](int, int, int, int) {});
}

}  // namespace scanlib
