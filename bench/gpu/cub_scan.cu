// CUB's DeviceScan on the pairs (a, x) of one sequence, beside a copy: prints one line of JSON.
//
//   nvcc -O3 -std=c++17 -arch=native cub_scan.cu -o cub_scan && ./cub_scan 26
#include <cub/device/device_scan.cuh>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define CHECK(call)                                                       \
  do {                                                                    \
    cudaError_t error = (call);                                           \
    if (error != cudaSuccess) {                                           \
      std::fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(error)); \
      std::exit(1);                                                       \
    }                                                                     \
  } while (0)

struct Step {
  float a, x;
};
struct Combine {
  __host__ __device__ Step operator()(Step before, Step after) const {
    return {after.a * before.a, after.a * before.x + after.x};
  }
};

__global__ void fill(Step *steps, long long count) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count;
       i += (long long)gridDim.x * blockDim.x)
    steps[i] = {0.5f + 0.5f * ((i * 2654435761ll >> 8 & 1023) / 1024.f), float(i * 40503ll & 2047) / 1024.f - 1.f};
}

template <class Call>
float median(Call call, char *flush, size_t flush_bytes) {
  std::vector<float> times;
  for (int i = 0; i < 12; ++i) {
    cudaEvent_t start, end;
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&end));
    CHECK(cudaMemsetAsync(flush, i, flush_bytes));
    CHECK(cudaEventRecord(start));
    call();
    CHECK(cudaEventRecord(end));
    CHECK(cudaEventSynchronize(end));
    float milliseconds;
    CHECK(cudaEventElapsedTime(&milliseconds, start, end));
    if (i >= 2) times.push_back(milliseconds * 1e-3f);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

int main(int, char **arguments) {
  const long long count = 1ll << std::atoi(arguments[1]);
  const size_t flush_bytes = size_t(1) << 30;
  Step *in, *out;
  char *flush;
  void *scratch = nullptr;
  size_t scratch_bytes = 0;
  CHECK(cudaMalloc(&in, count * sizeof(Step)));
  CHECK(cudaMalloc(&out, count * sizeof(Step)));
  CHECK(cudaMalloc(&flush, flush_bytes));
  fill<<<1024, 256>>>(in, count);
  CHECK(cudaGetLastError());
  CHECK(cub::DeviceScan::InclusiveScan(nullptr, scratch_bytes, in, out, Combine(), count));
  CHECK(cudaMalloc(&scratch, scratch_bytes));
  float scan = median([&] { CHECK(cub::DeviceScan::InclusiveScan(scratch, scratch_bytes, in, out, Combine(), count)); },
                      flush, flush_bytes);
  float copy = median([&] { CHECK(cudaMemcpyAsync(out, in, count * sizeof(Step), cudaMemcpyDeviceToDevice)); }, flush,
                      flush_bytes);
  const double moved = 2.0 * count * sizeof(Step);  // pairs in, pairs out: 4 words where a recurrence needs 3
  std::printf("{\"seconds\": %g, \"gigabytes_per_second\": %g, \"copy_gigabytes_per_second\": %g}\n", scan,
              moved / scan * 1e-9, moved / copy * 1e-9);
}
