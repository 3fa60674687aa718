// A tile: the elements a block works on at a time, kWidth lanes by kSlices slices of kRun steps. A thread owns kRun consecutive
// steps of one lane and keeps them in registers.
//
//   threadIdx.x = slice * kWidth + lane      so a warp holds kWarpSlices slices of kWarpLanes lanes, and kAbreast warps side
//                                            by side hold those slices of all lanes
//
// What lies side by side in memory is
//   columns  the lanes of a step
//   rows     the steps of a lane
// Strides are obeyed in both, so any view comes out right in either.
#pragma once
#include "elements.h"
#include "machine.cuh"
#include "params.h"

namespace scanlib {

constexpr bool kBackward = SCANLIB_BACKWARD;
constexpr bool kGated = SCANLIB_SOURCE == 1;
#if SCANLIB_SOURCE == 1
constexpr bool kHasY = SCANLIB_READING == 2;  // SCANLIB_GATED
#else
constexpr bool kHasY = false;
#endif
constexpr bool kMasked = SCANLIB_SEGMENTS == 1, kPacked = SCANLIB_SEGMENTS == 2;  // by RESET, by OFFSETS
constexpr bool kStarts = kMasked || kPacked;  // whether sequences start inside the time axis (segments.cuh)
constexpr bool kRows = SCANLIB_LAYOUT == 1;
constexpr bool kDown = SCANLIB_DOWN;  // rows whose later steps lie at lower addresses
constexpr int kThreads = SCANLIB_THREADS, kWidth = SCANLIB_WIDTH, kRun = SCANLIB_RUN;
constexpr int kWarps = kThreads / 32;
constexpr int kSlices = kThreads / kWidth;
constexpr int kTileSteps = kSlices * kRun;
constexpr int kWarpLanes = kWidth < 32 ? kWidth : 32;
constexpr int kWarpSlices = 32 / kWarpLanes;
constexpr int kWarpSteps = kWarpSlices * kRun;
constexpr int kAbreast = kWidth / kWarpLanes;
static_assert(kThreads % 32 == 0 && kThreads % kWidth == 0 && (kWidth & (kWidth - 1)) == 0, "a tile of whole warps");
static_assert((kRun & (kRun - 1)) == 0, "runs are powers of two");

template <bool yes, class A, class B>
struct If {
  using type = A;
};
template <class A, class B>
struct If<false, A, B> {
  using type = B;
};
// One of the types listed, by its place.
template <int place, class First, class... Rest>
struct Choice {
  using type = typename Choice<place - 1, Rest...>::type;
};
template <class First, class... Rest>
struct Choice<0, First, Rest...> {
  using type = First;
};
// Elements in the order of scanlib_dtype.
template <int dtype>
using ElementOf = Choice<dtype - 1, Half, Brain, float, double, Complex<float>, Complex<double>>;
constexpr int kInt32 = 8;  // SCANLIB_I32; what is not that of offsets is SCANLIB_I64

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

// Divided without a sign, which takes one instruction.
__device__ __forceinline__ unsigned thread() { return anew(threadIdx.x); }
__device__ __forceinline__ int warp() { return int(thread() / 32); }
__device__ __forceinline__ int slice() { return kSlices == 1 ? 0 : int(thread() / kWidth); }
__device__ __forceinline__ int lane() { return int(thread() % kWidth); }

// The first lane and step of a warp's part of the tile, and the thread's number, lane and slice in it.
__device__ __forceinline__ int warp_lane() { return kAbreast == 1 ? 0 : warp() % kAbreast * kWarpLanes; }
__device__ __forceinline__ int warp_step() { return kSlices == 1 ? 0 : warp() / kAbreast * kWarpSteps; }
// Of which the compiler does not know how small it is: with 8 bits it computes no faster, and has to widen them.
__device__ __forceinline__ unsigned own_thread() { return anew(thread() % 32); }
__device__ __forceinline__ int own_lane() { return int(thread() % kWarpLanes); }
__device__ __forceinline__ int own_slice() { return kWarpSlices == 1 ? 0 : int(own_thread() / kWarpLanes); }

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

// Backward wants `a` one step before the tile and h one step behind. Columns have them read so; in rows, where they would no longer
// be aligned, they are read as they lie, and the elements beside the tile on their own. Gates see to all but `a` themselves.
constexpr bool kEdges = kBackward && kRows;
__device__ constexpr int shift_of(int role) {
  return !kBackward || kRows ? 0 : role == kA ? -1 : role == kH && !kGated ? 1 : 0;
}
// Steps that there are after a whole tile, where one is read: in rows as many as fill 16 bytes.
constexpr int kAfter = !kBackward ? 0 : kRows ? 8 : 1;

// Whether operands of that role are moved as tiles.
__device__ constexpr bool moves(int role) {
  if (kGated) return role == kA || (kBackward ? role == kGradH || role == kGradA : role == kH || (kHasY && role == kY));
  return role == kA || role == kH ||
         (!kBackward ? role == kX : role == kGradH || role == kGradX || (role == kGradA && !SCANLIB_SUM));
}

// Roles that a program has operands of, which come first.
constexpr int kPlaces = kGated || kStarts ? kRoles : kY;

// Whether an operand has one element for each segment, or offset, in place of one for each step.
__device__ constexpr bool by_segments(int role) {
  return kPacked && (role == kH0 || role == kFinal || role == kGradFinal || role == kGradH0 || role == kOffsets);
}

// Of the offsets, in the order of the walk: those from a tile's first step up to that after its last.
struct Window {
  long long from, to;
};
template <bool>
struct WithWindow {
  Window window;
};
template <>
struct WithWindow<false> {
  static constexpr Window window{};
};

// One tile: where its operands lie. Found by one thread for each operand, and kept in shared memory.
struct Place : WithWindow<kPacked> {
  char *first[kPlaces];  // lane 0, step 0 of the tile; or what is read for it (shift_of)
  long long group, tile;
  int lanes, steps;  // that exist
  bool last;         // whether it has the last step of all
  // 2 if all of the tile exists, with what is read beside it, and moves in 16-byte words; 1 if all but `a` does so. 0 where that is
  // not so or not known: in backward's first tile, and towards the end.
  int words;
};

// What the tile of a place has; by any one thread.
__device__ __forceinline__ void measure(const ScanParams &p, Place &place) {
  const long long left = p.steps - place.tile * kTileSteps;
  place.steps = int(left < 0 ? 0 : left < kTileSteps ? left : kTileSteps);
  place.last = left <= kTileSteps;
  bool words = place.lanes == kWidth && left >= kTileSteps + kAfter && (!kBackward || place.tile > 0);
#pragma unroll
  for (int role = 0; role < kPlaces; ++role)
    if (moves(role) && role != kA) words = words && p.operand[role].wide;
  place.words = words ? 1 + (p.operand[kA].wide != 0) : 0;
}

// By the first kPlaces threads of a warp; `part` is what grad_a's step counts where it is summed over steps.
template <bool kSumSteps>
__device__ __forceinline__ void find_place(const ScanParams &p, Place &place, long long group, long long tile,
                                           long long part) {
  static_assert(kPlaces <= 32, "a thread for each");
  const int role = int(thread() % 32);
  if (role >= kPlaces) return;
  const Operand &operand = p.operand[role];
  long long number = group;
  const long long chunk = divided(number, p.chunks), left = p.lanes - chunk * kWidth;
  if (role == 0) {
    place.group = group;
    place.tile = tile;
    place.lanes = int(left < kWidth ? left : kWidth);
    measure(p, place);
  }
  char *first = operand.first + chunk * operand.chunk;
#pragma unroll 1
  for (int d = p.rank - 1; d >= 0; --d) first += divided(number, p.extent[d]) * operand.outer[d];
  const long long step = kSumSteps && role == kGradA ? part : tile * kTileSteps + shift_of(role);
  place.first[role] = by_segments(role) ? first : first + step * operand.step;
}

// -------------------------------------------------------------------------------------------------------------- elements

// Some steps of one lane in registers, as they lie in memory: in rows in memory's order, elements of 16 bits two to a register.
template <class E, int kCount>
struct Elements {
  static constexpr int kSize = sizeof(E);
  unsigned word[(kCount * kSize + 3) / 4];

  static __device__ constexpr int place(int i) { return kRows && kDown ? kCount - 1 - i : i; }
  __device__ __forceinline__ E operator[](int i) const {
    if constexpr (kSize == 2) {
      return E{(unsigned short)(word[place(i) / 2] >> place(i) % 2 * 16)};
    } else {
      union {
        unsigned word[kSize / 4];
        E element;
      } both;
#pragma unroll
      for (int w = 0; w < kSize / 4; ++w) both.word[w] = word[place(i) * (kSize / 4) + w];
      return both.element;
    }
  }
  __device__ __forceinline__ void set(int i, E value) {
    if constexpr (kSize == 2) {
      unsigned &pair = word[place(i) / 2];
      pair = place(i) % 2 ? (pair & 0xffffu) | unsigned(value.bits) << 16 : (pair & 0xffff0000u) | value.bits;
    } else {
      union {
        E element;
        unsigned word[kSize / 4];
      } both;
      both.element = value;
#pragma unroll
      for (int w = 0; w < kSize / 4; ++w) word[place(i) * (kSize / 4) + w] = both.word[w];
    }
  }
  // Ends what the compiler knows of them, so that it widens 16 bits again rather than keep what it widened before.
  __device__ __forceinline__ void forget() {
    if constexpr (kSize == 2) {
#pragma unroll
      for (unsigned &each : word) each = anew(each);
    }
  }
};

}  // namespace scanlib
