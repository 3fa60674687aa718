// What memory gives to the pattern in which a walk moves its tiles: h = a + x, no scan, 2^26 elements of float32.
//
//     nvcc -O3 -std=c++17 -arch=native bench/gpu/patterns.cu -o patterns && ./patterns
//
// A block has some rows of memory to itself and takes one piece of each after the other; rows of a tile lie `row` bytes apart, tiles
// `tile` bytes. Each line: the median of nine, by events, each after 1 GiB of something else was read.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace {

constexpr long long kElements = 1 << 26, kFlush = 1 << 30;
float *a, *x, *h;
float4 *other;

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

__device__ void copy(void *to, const void *from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(unsigned(__cvta_generic_to_shared(to))), "l"(from)
               : "memory");
}

__global__ void read(const float4 *from, long long count, float *to) {
  float sum = 0;
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count;
       i += (long long)gridDim.x * blockDim.x)
    sum += from[i].x;
  if (sum == 1.2345f) *to = sum;
}

__device__ float4 added(float4 p, float4 q) { return make_float4(p.x + q.x, p.y + q.y, p.z + q.z, p.w + q.w); }

__global__ void add(const float4 *a, const float4 *x, float4 *h) {
  const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  h[i] = added(a[i], x[i]);
}

// Where a block's rows are: that of number b begins at (b / chunks) * outer + (b % chunks) * chunk bytes.
struct Layout {
  long long blocks, tiles, row, tile, chunks, chunk, outer;
};

template <int kThreads, int kRows, int kPieceBytes, int kStages>
__global__ void __launch_bounds__(kThreads) walk(const char *a, const char *x, char *h, Layout at) {
  extern __shared__ float4 memory[];
  constexpr int kPiece = kPieceBytes / 16, kWords = kRows * kPiece, kEach = kWords / kThreads;
  static_assert(kWords % kThreads == 0, "as many words for each thread");
  const long long base = blockIdx.x / at.chunks * at.outer + blockIdx.x % at.chunks * at.chunk;
  auto place = [&](long long tile, int k) {
    const int word = k * kThreads + int(threadIdx.x);
    return base + word / kPiece * at.row + word % kPiece * 16 + tile * at.tile;
  };
  auto start = [&](long long tile) {
    float4 *to = memory + tile % kStages * 2 * kWords + threadIdx.x;
#pragma unroll
    for (int k = 0; k < kEach && tile < at.tiles; ++k) {
      copy(to + k * kThreads, a + place(tile, k));
      copy(to + kWords + k * kThreads, x + place(tile, k));
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
  for (int stage = 0; stage < kStages; ++stage) start(stage);
  for (long long tile = 0; tile < at.tiles; ++tile) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 1) : "memory");
    const float4 *from = memory + tile % kStages * 2 * kWords + threadIdx.x;
    float4 sum[kEach];
#pragma unroll
    for (int k = 0; k < kEach; ++k) sum[k] = added(from[k * kThreads], from[kWords + k * kThreads]);
    __syncthreads();
    start(tile + kStages);
#pragma unroll
    for (int k = 0; k < kEach; ++k) *reinterpret_cast<float4 *>(h + place(tile, k)) = sum[k];
    __syncthreads();
    __syncthreads();  // as many as a walk has
  }
}

template <class Launch>
void time(const char *name, Launch launch) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  float microseconds[9];
  for (float &each : microseconds) {
    read<<<1056, 512>>>(other, kFlush / 16, h);
    check(cudaEventRecord(begin));
    launch();
    check(cudaEventRecord(end));
    check(cudaEventSynchronize(end));
    check(cudaGetLastError());
    check(cudaEventElapsedTime(&each, begin, end));
    each *= 1e3f;
  }
  std::sort(microseconds, microseconds + 9);
  std::printf("%-72s %7.1f us %6.0f GB/s\n", name, microseconds[4], 12e-3 * double(kElements) / microseconds[4]);
}

template <int kThreads, int kRows, int kPieceBytes, int kStages>
void walks(const char *what, const Layout &at) {
  auto kernel = walk<kThreads, kRows, kPieceBytes, kStages>;
  constexpr int kShared = 2 * kStages * kRows * kPieceBytes;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  char name[128];
  std::snprintf(name, sizeof name, "%s: %d pieces of %d bytes, %d threads, %d on their way", what, kRows, kPieceBytes,
                kThreads, kStages);
  time(name,
       [&] { kernel<<<unsigned(at.blocks), kThreads, kShared>>>((const char *)a, (const char *)x, (char *)h, at); });
}

// (32, 4096, 512) along the second axis: a step of so many neighbouring lanes is a piece.
template <int kThreads, int kSteps, int kPieceBytes, int kStages>
void columns() {
  constexpr long long kRow = 512 * 4, kChunks = kRow / kPieceBytes;
  walks<kThreads, kSteps, kPieceBytes, kStages>(
      "columns", {32 * kChunks, 4096 / kSteps, kRow, kSteps * kRow, kChunks, kPieceBytes, 4096 * kRow});
}

// (2048, 32768) along the second axis: consecutive steps of a lane are a piece.
template <int kThreads, int kLanes, int kPieceBytes, int kStages>
void rows() {
  constexpr long long kRow = 32768 * 4;
  walks<kThreads, kLanes, kPieceBytes, kStages>(
      "rows", {2048 / kLanes, kRow / kPieceBytes, kRow, kPieceBytes, 1, 0, kLanes * kRow});
}

}  // namespace

int main() {
  for (float **each : {&a, &x, &h}) {
    check(cudaMalloc(each, 4 * kElements));
    check(cudaMemset(*each, 0, 4 * kElements));
  }
  check(cudaMalloc(&other, kFlush));
  check(cudaMemset(other, 0, kFlush));
  time("in order, no tiles", [] { add<<<kElements / 4 / 256, 256>>>((float4 *)a, (float4 *)x, (float4 *)h); });
  columns<128, 64, 64, 2>();
  columns<256, 128, 128, 1>();
  columns<256, 128, 128, 2>();
  columns<128, 64, 128, 1>();
  columns<128, 32, 256, 2>();
  columns<256, 64, 256, 2>();
  columns<256, 32, 512, 2>();
  rows<128, 4, 2048, 1>();
  rows<128, 4, 2048, 2>();
  rows<128, 4, 2048, 3>();
  rows<128, 1, 4096, 3>();
}
