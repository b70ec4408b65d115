// Cross entropy of one rank, loss and gradient from one reading of the logits.
//
// A row of a large vocabulary (256 KB in bf16) is more than one multiprocessor can hold. A cluster of up to eight blocks
// holds it together, in registers: every thread has 128 logits. The blocks tell each other their largest logit and their
// sum through distributed shared memory, and write the gradient from what they hold.
//
// On PyTorch's stable ABI (torch/csrc/stable): one object for every Python, and for torch from 2.11 on. The symbol that
// only a CUDA build of torch has is weak, so the object loads, and is tested, on a machine without a GPU.

#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream)
    __attribute__((weak));

namespace mai {
namespace {

namespace cg = cooperative_groups;

constexpr int kWidth = 8;         // bf16 values in a vector of 16 bytes
constexpr int kVectors = 16;      // vectors of a thread
constexpr int kThreads = 512;     // of a block, of which a multiprocessor holds one; with kVectors the fastest of ten
constexpr int kMostBlocks = 8;    // of a cluster; more is not portable

constexpr float kLog2OfE = 1.4426950408889634f;
constexpr float kLogOf2 = 0.6931471805599453f;

// A sum of powers of two, relative to the largest exponent in it. The hardware's exponential is that of two: logits are
// multiplied by log2(e), in the same instruction that subtracts the largest.
struct Sum {
  float largest;
  float sum;
};

__device__ float power_of_two(float exponent) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
  return power;
}

__device__ Sum joined(Sum a, Sum b) {
  const float largest = fmaxf(a.largest, b.largest);
  // A thread without logits: -inf - -inf would be no number.
  if (largest == -INFINITY) return {largest, 0.0f};
  return {largest, a.sum * power_of_two(a.largest - largest) + b.sum * power_of_two(b.largest - largest)};
}

__device__ Sum joined_of_warp(Sum own) {
  for (int distance = 16; distance > 0; distance /= 2) {
    const Sum other = {__shfl_xor_sync(~0u, own.largest, distance), __shfl_xor_sync(~0u, own.sum, distance)};
    own = joined(own, other);
  }
  return own;
}

// All threads of the block return the block's sum.
__device__ Sum joined_of_block(Sum own) {
  __shared__ Sum of_warps[32];
  own = joined_of_warp(own);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = own;
  __syncthreads();
  const int lane = threadIdx.x % 32;
  return joined_of_warp(lane < blockDim.x / 32 ? of_warps[lane] : Sum{-INFINITY, 0.0f});
}

// All threads of the cluster return the row's sum; a cluster's barrier stands between what was read and what follows.
__device__ Sum joined_of_cluster(Sum of_block) {
  __shared__ Sum of_blocks[kMostBlocks];
  cg::cluster_group cluster = cg::this_cluster();
  if (threadIdx.x < cluster.num_blocks()) {
    *cluster.map_shared_rank(&of_blocks[cluster.block_rank()], threadIdx.x) = of_block;
  }
  cluster.sync();
  Sum row = of_blocks[0];
  for (unsigned block = 1; block < cluster.num_blocks(); ++block) row = joined(row, of_blocks[block]);
  return row;
}

__device__ float2 pair_of(const uint4& vector, int pair) {
  return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162*>(&vector)[pair]);
}

__device__ uint32_t rounded_pair(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return reinterpret_cast<const uint32_t&>(pair);
}

// The larger of two values in each half; the hardware's own instruction, no conversion to fp32.
__device__ uint32_t larger(uint32_t a, uint32_t b) {
  const __nv_bfloat162 most =
      __hmax2(reinterpret_cast<const __nv_bfloat162&>(a), reinterpret_cast<const __nv_bfloat162&>(b));
  return reinterpret_cast<const uint32_t&>(most);
}

// Makes the compiler forget what it knows of a vector: else it keeps all logits in fp32 from one loop to the next, in
// twice the registers.
__device__ void forget(uint4& vector) {
  asm volatile("" : "+r"(vector.x), "+r"(vector.y), "+r"(vector.z), "+r"(vector.w));
}

// One cluster a row. `vectors`: of a row; `stride`: of rows, in values.
__global__ void __launch_bounds__(kThreads, 1)
    loss_and_gradient(__nv_bfloat16* logits, const int64_t* targets, float* losses, int vectors, int64_t stride) {
  cg::cluster_group cluster = cg::this_cluster();
  const int blocks = cluster.num_blocks();
  const int64_t row = blockIdx.x / blocks;
  const int lanes = blocks * blockDim.x;
  const int lane = cluster.block_rank() * blockDim.x + threadIdx.x;
  uint4* place = reinterpret_cast<uint4*>(logits + row * stride);
  const int target = static_cast<int>(targets[row]);
  const int target_vector = target / kWidth, target_value = target % kWidth;
  const float target_logit = lane == 0 ? __bfloat162float(logits[row * stride + target]) : 0.0f;

  uint4 held[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int vector = v * lanes + lane;
    constexpr uint32_t kTwoMinusInfinities = 0xff80ff80;
    held[v] = vector < vectors
                  ? __ldcs(place + vector)
                  : make_uint4(kTwoMinusInfinities, kTwoMinusInfinities, kTwoMinusInfinities, kTwoMinusInfinities);
  }

  uint32_t most = larger(larger(held[0].x, held[0].y), larger(held[0].z, held[0].w));
#pragma unroll
  for (int v = 1; v < kVectors; ++v) {
    most = larger(most, larger(larger(held[v].x, held[v].y), larger(held[v].z, held[v].w)));
  }
  const float2 two_largest = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(most));
  Sum own = {fmaxf(two_largest.x, two_largest.y) * kLog2OfE, 0.0f};
  if (own.largest > -INFINITY) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      forget(held[v]);
#pragma unroll
      for (int pair = 0; pair < kWidth / 2; ++pair) {
        const float2 two = pair_of(held[v], pair);
        own.sum += power_of_two(fmaf(two.x, kLog2OfE, -own.largest));
        own.sum += power_of_two(fmaf(two.y, kLog2OfE, -own.largest));
      }
    }
  }
  const Sum whole = joined_of_cluster(joined_of_block(own));
  const float log_sum = whole.largest + __log2f(whole.sum);
  if (lane == 0) losses[row] = log_sum * kLogOf2 - target_logit;

#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int vector = v * lanes + lane;
    if (vector >= vectors) continue;
    forget(held[v]);
    float out[kWidth];
#pragma unroll
    for (int pair = 0; pair < kWidth / 2; ++pair) {
      const float2 two = pair_of(held[v], pair);
      out[2 * pair] = power_of_two(fmaf(two.x, kLog2OfE, -log_sum));
      out[2 * pair + 1] = power_of_two(fmaf(two.y, kLog2OfE, -log_sum));
    }
    if (vector == target_vector) {
#pragma unroll
      for (int value = 0; value < kWidth; ++value) out[value] -= value == target_value ? 1.0f : 0.0f;
    }
    uint4 rounded;
    rounded.x = rounded_pair(out[0], out[1]);
    rounded.y = rounded_pair(out[2], out[3]);
    rounded.z = rounded_pair(out[4], out[5]);
    rounded.w = rounded_pair(out[6], out[7]);
    __stcs(place + vector, rounded);
  }
}

void check(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, "mai_cuda::cross_entropy: ", cudaGetErrorString(error));
}

// logits [T, V] bf16, contiguous, V a multiple of 8 and at most 524,288: overwritten with softmax minus one-hot.
// targets [T] int64, between 0 and V - 1. losses [T] fp32: written.
void cross_entropy(torch::stable::Tensor logits, torch::stable::Tensor targets, torch::stable::Tensor losses) {
  const int64_t rows = logits.size(0), entries = logits.size(1);
  STD_TORCH_CHECK(entries % kWidth == 0 && logits.stride(0) % kWidth == 0 && logits.stride(1) == 1,
                  "mai_cuda::cross_entropy: rows that are no whole vectors of 16 bytes");
  int blocks = 1;
  while (static_cast<int64_t>(blocks) * kThreads * kVectors * kWidth < entries) blocks *= 2;
  STD_TORCH_CHECK(blocks <= kMostBlocks, "mai_cuda::cross_entropy: a vocabulary larger than a cluster holds");
  if (rows == 0) return;

  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "mai_cuda::cross_entropy: a torch without CUDA");
  aoti_torch_get_current_cuda_stream(logits.get_device(), &stream);

  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = blocks;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t launch = {};
  launch.gridDim = dim3(static_cast<unsigned>(rows * blocks));
  launch.blockDim = dim3(kThreads);
  launch.stream = static_cast<cudaStream_t>(stream);
  launch.attrs = &cluster;
  launch.numAttrs = 1;
  check(cudaLaunchKernelEx(&launch, loss_and_gradient, static_cast<__nv_bfloat16*>(logits.data_ptr()),
                           static_cast<const int64_t*>(targets.data_ptr()), static_cast<float*>(losses.data_ptr()),
                           static_cast<int>(entries / kWidth), logits.stride(0)));
}

}  // namespace
}  // namespace mai

STABLE_TORCH_LIBRARY(mai_cuda, library) {
  library.def("cross_entropy(Tensor(a!) logits, Tensor targets, Tensor(b!) losses) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(mai_cuda, CUDA, library) {
  library.impl("cross_entropy", TORCH_BOX(&mai::cross_entropy));
}
