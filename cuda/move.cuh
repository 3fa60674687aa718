// A tile on its way between global and shared memory.
//
// A warp moves its own part of the tile, kWarpLanes lanes by kWarpSlices * kRun steps: 16 bytes at a time where an operand's strides
// and address allow it, else element by element, and always so that neighbouring threads move neighbouring addresses.
#pragma once
#include "tile.cuh"

namespace scanlib {

// Which elements of a tile there are: low <= step < high, lane < lanes.
struct Extent {
  int low, high, lanes;
};

// A thread that moves its share of its warp's part, which begins at that step and lane of the tile.
struct Mover {
  unsigned thread;
  int step, lane;
  __device__ __forceinline__ Mover() : thread(own_thread()), step(warp_step()), lane(warp_lane()) {}
};

// A thread's lane and slice in its warp's part.
struct Owner {
  int lane, slice;
  __device__ __forceinline__ Owner() {
    const unsigned t = own_thread();
    lane = int(t % kWarpLanes);
    slice = kWarpSlices == 1 ? 0 : int(t / kWarpLanes);
  }
  __device__ __forceinline__ Owner(int lane, int slice) : lane(lane), slice(slice) {}
  __device__ __forceinline__ Owner earlier() const { return {lane, slice - 1}; }
  __device__ __forceinline__ Owner later() const { return {lane, slice + 1}; }
};

// A warp's part of a tile in shared memory, of kEach steps a thread: an array of bytes and where each element lies in it.
//
// Rows: one run after the other, in memory's order. Threads that read the same 16-byte word of their runs are to meet all banks, so
// the words of a run lie in an order of its own (kSwizzled), or runs are an odd number of words apart. Columns: the lanes of one
// step, then the next step's, with a gap between slices.
template <class E, int kEach>
struct Part {
  using Element = E;
  static constexpr int kSize = sizeof(E), kRunBytes = kEach * kSize, kStepBytes = kWarpLanes * kSize;
  static constexpr bool kWordRuns = kRows && kRunBytes % 16 == 0;
  static constexpr unsigned kRunWords = kRunBytes / 16;
  static constexpr bool kSwizzled = kWordRuns && kRunWords <= 4;
  static constexpr int kStride = !kWordRuns ? kRunBytes + kSize : kSwizzled ? kRunBytes : int(kRunWords | 1) * 16;
  static constexpr int kSliceBytes = kEach * kStepBytes + (kWarpSlices > 1 ? kStepBytes : 0);
  static constexpr int kBytes = ((kRows ? 32 * kStride : kWarpSlices * kSliceBytes) + 15) / 16 * 16;
  // Whether it consists of 16-byte words that lie in memory as they do here.
  static constexpr bool kWords = (kRows ? kRunBytes : kStepBytes) % 16 == 0;

  static __device__ __forceinline__ int at(const Owner &owner, int i) {
    if constexpr (kRows) {
      return in_run(run_of(owner), (kDown ? kEach - 1 - i : i) * kSize);
    } else {
      return owner.slice * kSliceBytes + i * kStepBytes + owner.lane * kSize;
    }
  }

  // A run.
  static __device__ __forceinline__ void read(Elements<E, kEach> &to, const char *part, const Owner &owner) {
    if constexpr (kWordRuns) {
      const unsigned run = run_of(owner);
#pragma unroll
      for (int w = 0; w < int(kRunWords); ++w) {
        const Bytes<16> word = *reinterpret_cast<const Bytes<16> *>(part + in_run(run, 16 * w));
#pragma unroll
        for (int i = 0; i < 4; ++i) to.word[4 * w + i] = word.word[i];
      }
    } else {
      const char *own = part + at(owner, kDown ? kEach - 1 : 0);
      to = {};
#pragma unroll
      for (int i = 0; i < kEach; ++i) to.set(i, load_element<E>(own + distance(i)));
    }
  }
  static __device__ __forceinline__ void write(const Elements<E, kEach> &from, char *part, const Owner &owner) {
    if constexpr (kWordRuns) {
      const unsigned run = run_of(owner);
#pragma unroll
      for (int w = 0; w < int(kRunWords); ++w)
        *reinterpret_cast<Bytes<16> *>(part + in_run(run, 16 * w)) = {
            {from.word[4 * w], from.word[4 * w + 1], from.word[4 * w + 2], from.word[4 * w + 3]}};
    } else {
      char *own = part + at(owner, kDown ? kEach - 1 : 0);
#pragma unroll
      for (int i = 0; i < kEach; ++i) store_element(own + distance(i), from[i]);
    }
  }

  // The first 16-byte word that a thread moves between an operand, whose tile begins at `first`, and the part.
  static __device__ __forceinline__ char *first_word(char *first, const Operand &operand, const Mover &mover) {
    return address<16 / kSize>(first, mover, mover.thread, 0, kRows ? (kDown ? -kSize : kSize) : operand.step,
                               kRows ? operand.lane : kSize);
  }
  // Its share of moving all of the part so: calls use(address, offset in the part) for each word, of which `at` is the first. The part
  // has the steps from `from` on of each run.
  template <class Use>
  static __device__ __forceinline__ void each_word(char *at, const Operand &operand, int from, const Mover &mover,
                                                   Use use) {
    constexpr int kPer = 16 / kSize, kCount = 32 * kEach / kPer;
    const long long by_step = kRows ? (kDown ? -kSize : kSize) : operand.step, by_lane = kRows ? operand.lane : kSize;
    const int offset = offset_of<kPer>(mover.thread);
    if (kCount < 32 && mover.thread >= kCount) return;
    at += from * by_step;
#pragma unroll
    for (int r = 0; r < (kCount + 31) / 32; ++r) {
      use(at, offset + offset_of<kPer>(32 * r));
      at += int(step_of<kPer>(32 * r + 32) - step_of<kPer>(32 * r)) * by_step +
            int(lane_of<kPer>(32 * r + 32) - lane_of<kPer>(32 * r)) * by_lane;
    }
  }

  // The same for what exists of a part, in pieces of kPer elements, kFew at a time: first load(i, ...) for each of them, then
  // store(i, ...).
  template <int kPer, int kFew, class Load, class Store>
  static __device__ __forceinline__ void each_piece(char *first, const Operand &operand, int from, const Mover &mover,
                                                    const Extent &extent, Load load, Store store) {
    constexpr unsigned kCount = 32 * kEach / kPer;
#pragma unroll 1
    for (unsigned begin = mover.thread; begin < kCount; begin += 32 * kFew) {
      bool exists[kFew];
#pragma unroll
      for (int i = 0; i < kFew; ++i) {
        const unsigned piece = begin + 32 * i;
        const int step = mover.step + from + step_of<kPer>(piece), lane_ = mover.lane + lane_of<kPer>(piece);
        exists[i] = piece < kCount && step >= extent.low && step < extent.high && lane_ < extent.lanes;
        if (exists[i])
          load(i, address<kPer>(first, mover, piece, from, operand.step, operand.lane), offset_of<kPer>(piece));
      }
#pragma unroll
      for (int i = 0; i < kFew; ++i)
        if (exists[i]) store(i, offset_of<kPer>(begin + 32 * i));
    }
  }

 private:
  // In rows: the number of the owner's run in the part ...
  static __device__ __forceinline__ unsigned run_of(const Owner &owner) {
    return owner.lane * kWarpSlices + (kDown ? kWarpSlices - 1 - owner.slice : owner.slice);
  }
  // ... and where a byte of a run lies. Two runs of 64 bytes, or four of 32, fill all banks: they lie alike, the next ones by one word
  // further along. The runs that 32 words fill repeat that.
  static __device__ constexpr unsigned in_run(unsigned run, unsigned byte) {
    if (!kSwizzled) return run * kStride + byte;
    const unsigned alike = run * kRunWords / 8;
    return run * kStride + (byte / 16 ^ (alike & (kRunWords - 1))) * 16 + byte % 16;
  }
  // In bytes, of step i of a run from the first in memory's order ...
  static __device__ constexpr int distance(int i) {
    return kRows ? Elements<E, kEach>::place(i) * kSize : i * kStepBytes;
  }
  // Of the piece of that number: sums over the bits of the number, so that a thread's own and a round's are added up.
  template <int kPer>
  static __device__ constexpr unsigned lane_of(unsigned piece) {
    if (kRows) return kWarpLanes == 1 ? 0 : piece / (kWarpSlices * kEach / kPer);
    return piece % (kWarpLanes / kPer) * kPer;
  }
  template <int kPer>
  static __device__ constexpr unsigned place_of(unsigned piece) {  // its step in the part; in rows in memory's order
    if (!kRows) return piece / (kWarpLanes / kPer);
    return (kWarpLanes == 1 ? piece : piece % (kWarpSlices * kEach / kPer)) * kPer;
  }
  template <int kPer>
  static __device__ constexpr unsigned step_of(unsigned piece) {
    const unsigned place = place_of<kPer>(piece);
    if (kRows) return kDown ? kWarpSteps - 1 - place : place;
    return kWarpSlices == 1 ? place : place / kEach * kRun + place % kEach;
  }
  template <int kPer>
  static __device__ constexpr unsigned offset_of(unsigned piece) {
    const unsigned place = place_of<kPer>(piece), lane_ = lane_of<kPer>(piece);
    const unsigned slice_ = !kRows && kWarpSlices == 1 ? 0 : place / kEach, i = place - slice_ * kEach;
    return kRows ? in_run(lane_ * kWarpSlices + slice_, i * kSize)
                 : slice_ * kSliceBytes + i * kStepBytes + lane_ * kSize;
  }
  template <int kPer>
  static __device__ __forceinline__ char *address(char *first, const Mover &mover, unsigned piece, int from,
                                                  long long by_step, long long by_lane) {
    const unsigned step = mover.step + from + step_of<kPer>(piece), lane_ = mover.lane + lane_of<kPer>(piece);
    return first + step * by_step + lane_ * by_lane;
  }
};

// Which elements exist of what is read of an operand for a tile, `shift` steps from it.
__device__ __forceinline__ Extent extent_of(const Place &place, int shift) {
  const int high = shift > 0 ? (place.last ? place.steps - 1 : kTileSteps) : place.steps - shift;
  return {shift < 0 && place.tile == 0, high < kTileSteps ? high : kTileSteps, place.lanes};
}

// Moves what exists of a warp's part of an operand, `word(address, offset)` 16 bytes where strides and addresses allow that, otherwise
// element by element, by `load` and `store` as each_piece() calls them. `first` is where the tile begins.
template <class P, class Word, class Load, class Store>
__device__ __forceinline__ void move_part(const Operand &operand, char *first, const Extent &extent, int from,
                                          const Mover &mover, Word word, Load load, Store store) {
  constexpr int kPer = 16 / P::kSize;
  constexpr int kFew = P::kSize < 4 ? 4 : 1;  // small elements have no copies behind a thread's back
  if constexpr (P::kWords) {
    // In rows the last may end inside of a word.
    if (operand.wide && (!kRows || extent.high % kPer == 0))
      return P::template each_piece<kPer, 1>(
          first, operand, from, mover, extent, [&](int, char *at, int offset) { word(at, offset); }, [](int, int) {});
  }
  P::template each_piece<1, kFew>(first, operand, from, mover, extent, load, store);
}

// Starts copies of a warp's part of an operand of a tile, which lies at `first`, `shift` steps from it; kWhole: one of Place::words.
template <class E, bool kWhole>
__device__ __forceinline__ void start_part(const Operand &operand, char *first, const Place &place, int shift,
                                           const Mover &mover, char *to) {
  using P = Part<E, kRun>;
  auto word = [&](const char *at, int offset) { start_copy<16>(to + offset, at); };
  if constexpr (kWhole) return P::each_word(P::first_word(first, operand, mover), operand, 0, mover, word);
  E held[4] = {};  // not what an earlier tile left, which would take registers in between
  move_part<P>(
      operand, first, extent_of(place, shift), 0, mover, word,
      [&](int i, const char *at, int offset) {
        if constexpr (sizeof(E) < 4)
          held[i] = load_element<E>(at);
        else
          start_copy<sizeof(E)>(to + offset, at);
      },
      [&](int i, int offset) {
        if constexpr (sizeof(E) < 4) store_element(to + offset, held[i]);
      });
}
template <class E, bool kWhole>
__device__ __forceinline__ void start_part(const ScanParams &p, const Place &place, int role, const Mover &mover,
                                           char *to) {
  start_part<E, kWhole>(p.operand[role], global(place.first[role]), place, shift_of(role), mover, to);
}

// Stores steps of each run of an operand from shared memory: those from `from` on. kWhole as above; `offset`: from the operand's own
// first element.
template <class P, bool kWhole>
struct PartWriter {
  const ScanParams &p;
  const Place &place;
  const int role;
  const Mover &mover;
  const char *const part;
  const long long offset;
  char *at;

  __device__ __forceinline__ PartWriter(const ScanParams &p, const Place &place, int role, const Mover &mover,
                                        const char *part, long long offset = 0)
      : p(p), place(place), role(role), mover(mover), part(part), offset(offset) {
    if constexpr (kWhole) at = P::first_word(global(place.first[role]) + offset, p.operand[role], mover);
  }
  __device__ __forceinline__ void operator()(int from) const {
    const char *part_ = part;
    auto word = [=](char *to, int offset) {
      *reinterpret_cast<Bytes<16> *>(to) = *reinterpret_cast<const Bytes<16> *>(part_ + offset);
    };
    if constexpr (kWhole)
      P::each_word(at, p.operand[role], from, mover, word);
    else
      move_part<P>(
          p.operand[role], global(place.first[role]) + offset, extent_of(place, 0), from, mover, word,
          [=](int, char *to, int offset) { store_element(to, load_element<typename P::Element>(part_ + offset)); },
          [](int, int) {});
  }
};

}  // namespace scanlib
