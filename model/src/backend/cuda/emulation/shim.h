// CUDA C on the CPU: the declarations that a kernel's source needs so that g++ compiles it. See mod.rs for the purpose.
//
// A kernel with one-dimensional blocks runs as fibers on one operating-system thread, one fiber per CUDA thread. They
// switch only where threads wait for each other: runtime.cpp.
#pragma once

#include "numbers.h"
#include <stddef.h>
#include <stdio.h>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

// One set of these per operating-system thread that launches kernels.
extern __thread uint3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

namespace shim {

// The block's shared memory, aligned to 128 bytes.
extern __thread unsigned char* shared_memory;

// Maximum number of bytes that a lane passes to one warp operation.
constexpr size_t LARGEST = 256;

// Waits for the lanes of `mask`, each of which passes `size` bytes, and returns their array, ordered by lane, which is
// valid until this lane enters another operation. All lanes must call it from the same line with the same name, mask
// and size. The last lane to arrive may modify the values with `combine` before any lane sees them.
const void* meet(const char* operation, unsigned mask, const void* mine, size_t size, const char* file, int line,
                 void (*combine)(void* all) = nullptr);

// Waits for all threads of the block; returns the sum of their values.
int barrier(int mine, const char* file, int line);

// Copies 16 bytes to shared memory, or zeros if `from` is null; it reads as NaN until this thread calls copies_arrive.
void copy_later(void* to, const void* from);
void copies_arrive();

// Ends the launch with an error.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

#define SHIM_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

// Every lane of a warp passes `size` bytes, at most LARGEST, and receives those of all: `all` has room for 32 times as many.
inline void exchange(const void* mine, void* all, size_t size, SHIM_CALLER) {
    memcpy(all, meet("exchange", 0xffffffffu, mine, size, file, line), 32 * size);
}

// A joint computation of all lanes of a warp: each passes an L and gets it back after COMBINE has processed all 32.
template <class L, void (*COMBINE)(L*)> inline L together(const L& mine, SHIM_CALLER) {
    auto combine = [](void* all) { COMBINE(static_cast<L*>(all)); };
    return static_cast<const L*>(meet("together", 0xffffffffu, &mine, sizeof(L), file, line, combine))[threadIdx.x % 32];
}

inline unsigned lane() { return threadIdx.x % 32; }

// Returns the value that lane `from` passes; it must be in the mask.
template <class T>
inline T shuffle(const char* operation, unsigned mask, T mine, int from, SHIM_CALLER) {
    const T* all = static_cast<const T*>(meet(operation, mask, &mine, sizeof(T), file, line));
    if (!(mask >> from & 1)) fail("%s:%d: %s reads lane %d, which the mask %08x leaves out", file, line, operation, from, mask);
    return all[from];
}

struct Kernel {
    const char* name;
    int threads; // maximum per block
    size_t size; // size of its arguments in bytes
    void (*call)(const void* arguments);
    const Kernel* next;
};

// Registers a kernel for launching.
struct Registration {
    Kernel kernel;
    Registration(const char* name, int threads, size_t size, void (*call)(const void*));
};

template <auto F> struct Caller;
template <class A, void (*F)(A)> struct Caller<F> {
    static void call(const void* arguments) { F(*static_cast<const A*>(arguments)); }
    static constexpr size_t size = sizeof(A);
};

} // namespace shim

#define SHARED(T, name) T* name = reinterpret_cast<T*>(::shim::shared_memory)
#define REGISTER(name, threads)                                                                       \
    static const ::shim::Registration register_##name(#name, threads, ::shim::Caller<&name>::size,    \
                                                      ::shim::Caller<&name>::call);

// Barriers and warp operations.

inline void __syncthreads(SHIM_CALLER) { shim::barrier(0, file, line); }
inline int __syncthreads_count(int mine, SHIM_CALLER) { return shim::barrier(mine != 0, file, line); }
inline int __syncthreads_or(int mine, SHIM_CALLER) { return shim::barrier(mine != 0, file, line) != 0; }
inline int __syncthreads_and(int mine, SHIM_CALLER) { return shim::barrier(mine == 0, file, line) == 0; }
inline void __syncwarp(unsigned mask = 0xffffffffu, SHIM_CALLER) { shim::meet("__syncwarp", mask, nullptr, 0, file, line); }

template <class T> inline T __shfl_sync(unsigned mask, T x, int from, int width = 32, SHIM_CALLER) {
    int first = shim::lane() & ~(width - 1);
    return shim::shuffle("__shfl_sync", mask, x, first + (from & (width - 1)), file, line);
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T x, int with, int width = 32, SHIM_CALLER) {
    int lane = shim::lane(), last = lane | (width - 1), from = lane ^ with;
    return shim::shuffle("__shfl_xor_sync", mask, x, from > last ? lane : from, file, line);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T x, unsigned by, int width = 32, SHIM_CALLER) {
    int lane = shim::lane(), last = lane | (width - 1), from = lane + (int)by;
    return shim::shuffle("__shfl_down_sync", mask, x, from > last ? lane : from, file, line);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T x, unsigned by, int width = 32, SHIM_CALLER) {
    int lane = shim::lane(), first = lane & ~(width - 1), from = lane - (int)by;
    return shim::shuffle("__shfl_up_sync", mask, x, from < first ? lane : from, file, line);
}

namespace shim {
inline unsigned ballot(const char* operation, unsigned mask, int mine, const char* file, int line) {
    const int* all = static_cast<const int*>(meet(operation, mask, &mine, sizeof(int), file, line));
    unsigned votes = 0;
    for (int lane = 0; lane < 32; ++lane) votes |= (unsigned)((mask >> lane & 1) && all[lane] != 0) << lane;
    return votes;
}
} // namespace shim

inline unsigned __ballot_sync(unsigned mask, int x, SHIM_CALLER) { return shim::ballot("__ballot_sync", mask, x, file, line); }
inline int __any_sync(unsigned mask, int x, SHIM_CALLER) { return shim::ballot("__any_sync", mask, x, file, line) != 0; }
inline int __all_sync(unsigned mask, int x, SHIM_CALLER) { return shim::ballot("__all_sync", mask, x, file, line) == mask; }

// A launch runs on a single operating-system thread, so that memory operations need no synchronization.

inline void __threadfence_block() {}
inline void __threadfence() {}
template <class T> inline T __ldg(const T* from) { return *from; }
template <class T> inline T __ldcs(const T* from) { return *from; }
template <class T> inline T __ldcg(const T* from) { return *from; }
template <class T> inline void __stcs(T* to, T x) { *to = x; }
template <class T> inline void __stcg(T* to, T x) { *to = x; }

#define SHIM_ATOMICS(T)                                                                    \
    inline T atomicAdd(T* at, T x) { T old = *at; *at = old + x; return old; }             \
    inline T atomicMax(T* at, T x) { T old = *at; *at = old < x ? x : old; return old; }   \
    inline T atomicMin(T* at, T x) { T old = *at; *at = x < old ? x : old; return old; }   \
    inline T atomicExch(T* at, T x) { T old = *at; *at = x; return old; }                  \
    inline T atomicCAS(T* at, T is, T x) { T old = *at; if (old == is) *at = x; return old; }
SHIM_ATOMICS(int)
SHIM_ATOMICS(unsigned)
SHIM_ATOMICS(unsigned long long)
#undef SHIM_ATOMICS
inline unsigned atomicOr(unsigned* at, unsigned x) { unsigned old = *at; *at = old | x; return old; }
inline unsigned atomicAnd(unsigned* at, unsigned x) { unsigned old = *at; *at = old & x; return old; }

// Mathematical functions: the fast variants are as exact here as the others.

inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline int __float2int_rn(float x) { return (int)rintf(x); }
inline int __float2int_rd(float x) { return (int)floorf(x); }
inline int __float2int_rz(float x) { return (int)x; }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((uint64_t)x * y >> 32); }

#define SHIM_LIMITS(T)                                 \
    inline T min(T a, T b) { return b < a ? b : a; }   \
    inline T max(T a, T b) { return a < b ? b : a; }
SHIM_LIMITS(int)
SHIM_LIMITS(unsigned)
SHIM_LIMITS(long)
SHIM_LIMITS(unsigned long)
SHIM_LIMITS(long long)
SHIM_LIMITS(unsigned long long)
#undef SHIM_LIMITS
inline unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
inline unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
inline unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
inline unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline void __trap() { shim::fail("__trap was called"); }
