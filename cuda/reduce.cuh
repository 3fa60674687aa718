// The second stage of grad_a's sum where `a` was broadcast: each output adds up its partial sums, in an order that depends on
// the problem alone. A block has kWidth outputs side by side; kSlices threads share the terms of each.
#pragma once
#include "tile.cuh"

namespace scanlib {

__device__ __forceinline__ long long offset_along(const ReduceParams::Axis *axes, int rank, long long index,
                                                  long long ReduceParams::Axis::*stride) {
  long long offset = 0;
  for (int d = rank - 1; d > 0; --d) offset += divided(index, axes[d].extent) * (axes[d].*stride);
  return rank > 0 ? offset + index * (axes[0].*stride) : offset;
}

__device__ __forceinline__ void add_up(const ReduceParams &p) {
  using Part = ElementOf<SCANLIB_A>::type;
  using Sum = SumOf<ElementOf<SCANLIB_VALUE>::type>::type;
  struct Memory {
    Sum of[kThreads];
  };
  SCANLIB_SHARED(Memory, memory);
  for (long long first = (long long)blockIdx.x * kWidth; first < p.outputs; first += (long long)gridDim.x * kWidth) {
    const long long output = first + lane();
    Sum sum{};
    if (output < p.outputs) {
      const char *from = p.from + offset_along(p.kept, p.kept_rank, output, &ReduceParams::Axis::from);
#pragma unroll 4
      for (long long term = slice(); term < p.terms; term += kSlices)
        add(sum, widened<Sum>(load_element<Part>(
                     from + offset_along(p.summed, p.summed_rank, term, &ReduceParams::Axis::from))));
    }
    memory.of[thread()] = sum;
    __syncthreads();
    if (slice() == 0 && output < p.outputs) {
      for (int s = 1; s < kSlices; ++s) add(sum, memory.of[s * kWidth + lane()]);
      store_element(p.to + offset_along(p.kept, p.kept_rank, output, &ReduceParams::Axis::to),
                    narrowed<ElementOf<SCANLIB_GRAD_A>::type>(sum));
    }
    __syncthreads();
  }
}

}  // namespace scanlib
