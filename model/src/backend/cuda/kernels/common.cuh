// Shared by all kernels: element types, wide loads and stores, reductions over a warp and a block.
//
// A kernel is a structure of its arguments with an `operator()`, templated over the type T of activations, and exported
// for each of them: EXPORT(RmsNorm, rms_norm, 256) defines rms_norm_f32, rms_norm_bf16 and rms_norm_f16, which take the
// structure by value and run with at most 256 threads per block. The structure has C layout; its counterpart in Rust is
// `#[repr(C)]`. Shared memory is always dynamic and declared by SHARED(float, sums). No kernel uses floating-point
// atomic additions, so results do not depend on the order in which blocks run.
//
// With EMULATE the same source compiles for the CPU: see ../emulation/shim.h.
#pragma once

#ifdef EMULATE
#include "shim.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
// Declares the block's shared memory as an array of T, from its start.
#define SHARED(T, name) T* name = reinterpret_cast<T*>(shared_memory)
extern __shared__ __align__(128) unsigned char shared_memory[];
#define REGISTER(name, threads)
#endif

typedef __nv_bfloat16 bf16;
typedef __half f16;

#define EXPORT_ONE(Kernel, name, threads)                                                  \
    extern "C" __global__ void __launch_bounds__(threads) name(const Kernel kernel) { kernel(); } \
    REGISTER(name, threads)

#define EXPORT(Kernel, name, threads)              \
    EXPORT_ONE(Kernel<float>, name##_f32, threads) \
    EXPORT_ONE(Kernel<bf16>, name##_bf16, threads) \
    EXPORT_ONE(Kernel<f16>, name##_f16, threads)

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
__device__ inline float to_float(f16 x) { return __half2float(x); }

template <class T> __device__ inline T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline bf16 from_float<bf16>(float x) { return __float2bfloat16(x); }
template <> __device__ inline f16 from_float<f16>(float x) { return __float2half(x); }

// Elements that are read and written together, for example 8 of bf16 in 16 bytes.
template <class T, int N> struct alignas(N * sizeof(T)) Pack {
    T at[N];
};

// Number of elements of T in 16 bytes.
template <class T> __device__ constexpr int wide() { return 16 / (int)sizeof(T); }

template <class T, int N> __device__ inline Pack<T, N> load(const T* from) {
    return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <class T, int N> __device__ inline void store(T* to, const Pack<T, N>& pack) {
    *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

__device__ inline float warp_sum(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

__device__ inline float warp_max(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

// Returns the sum over a block in every thread; `room` has one float per warp. Every thread of the block must call it.
__device__ inline float block_sum(float x, float* room) {
    int warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
    x = warp_sum(x);
    __syncthreads(); // `room` may still hold an earlier result
    if (lane == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_sum(lane < warps ? room[lane] : 0.0f);
}

// Returns the maximum over a block, in the same way.
__device__ inline float block_max(float x, float* room) {
    int warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_max(lane < warps ? room[lane] : -INFINITY);
}

// Dropout factors from a counter-based generator; identical to those of ../../dropout.rs.
struct Dropout {
    uint64_t seed;
    float rate; // 0 means no dropout
    int unused;

    __device__ static uint64_t mix(uint64_t x) {
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
        return x ^ (x >> 31);
    }

    __device__ bool keeps(uint64_t index) const {
        return (float)(mix(seed + index * 0x9e3779b97f4a7c15ull) >> 40) * (1.0f / 16777216.0f) >= rate;
    }

    __device__ float factor(uint64_t index) const { return keeps(index) ? 1.0f / (1.0f - rate) : 0.0f; }
};
