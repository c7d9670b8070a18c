// Small kernels, correct and deliberately wrong, with which model/tests/emulation.rs tests the emulation.

#include "common.cuh"

// The sum of each row of `n` elements.
struct TestSum {
    const float* x;
    float* sums;
    int n;

    __device__ void operator()() const {
        SHARED(float, room);
        float sum = 0.0f;
        for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[(size_t)blockIdx.x * n + i];
        sum = block_sum(sum, room);
        if (threadIdx.x == 0) sums[blockIdx.x] = sum;
    }
};
EXPORT_ONE(TestSum, test_sum, 256)

// The same by a tree reduction in shared memory, with and without a required barrier.
template <bool WAITS> struct TestTree {
    const float* x;
    float* sums;
    int n;

    __device__ void operator()() const {
        SHARED(float, sum);
        sum[threadIdx.x] = 0.0f;
        for (int i = threadIdx.x; i < n; i += blockDim.x) sum[threadIdx.x] += x[(size_t)blockIdx.x * n + i];
        for (int half = blockDim.x / 2; half > 0; half /= 2) {
            if (WAITS || half != 16) __syncthreads();
            if ((int)threadIdx.x < half) sum[threadIdx.x] += sum[threadIdx.x + half];
        }
        if (threadIdx.x == 0) sums[blockIdx.x] = sum[0];
    }
};
EXPORT_ONE(TestTree<true>, test_tree, 256)
EXPORT_ONE(TestTree<false>, test_tree_without_a_barrier, 256)

// Threads below `first` enter one barrier, the others below `second` enter another.
struct TestBarrier {
    int first, second;

    __device__ void operator()() const {
        int i = threadIdx.x;
        if (i < first) __syncthreads();
        else if (i < second) __syncthreads_count(1);
    }
};
EXPORT_ONE(TestBarrier, test_barrier, 256)

// Lanes from `first` to `last` enter a shuffle with a mask.
struct TestLanes {
    int* result;
    int first, last;
    unsigned mask;

    __device__ void operator()() const {
        int lane = threadIdx.x % WARP;
        if (first <= lane && lane <= last) result[threadIdx.x] = __shfl_sync(mask, lane * lane, first);
    }
};
EXPORT_ONE(TestLanes, test_lanes, 64)

// Replaces the values of a warp by their prefix sums.
inline void sum_up(int* all) {
    for (int lane = 1; lane < WARP; ++lane) all[lane] += all[lane - 1];
}

// Every warp operation, with eight results per lane.
struct TestWarp {
    int* results;

    __device__ void operator()() const {
        int lane = threadIdx.x % WARP;
        int* at = results + threadIdx.x * 8;
        float x = 1000.0f + lane;
        at[0] = (int)__shfl_sync(ALL_LANES, x, lane + 3, 8);
        at[1] = (int)__shfl_xor_sync(ALL_LANES, x, 5);
        at[2] = (int)__shfl_down_sync(ALL_LANES, x, 7);
        at[3] = (int)__shfl_up_sync(ALL_LANES, x, 7, 16);
        at[4] = (int)__ballot_sync(ALL_LANES, lane % 3 == 0);
        at[5] = __any_sync(ALL_LANES, lane == 9) + 2 * __all_sync(ALL_LANES, lane < 31) + 4 * __all_sync(ALL_LANES, lane < 32);
        at[6] = __syncthreads_count(lane < 5) + 100 * shim::together<int, sum_up>(lane);
        int all[WARP], sum = 0;
        shim::exchange(&lane, all, sizeof(lane));
        for (int i = 0; i < WARP; ++i) sum += all[i] * (i + 1);
        at[7] = sum;
    }
};
EXPORT_ONE(TestWarp, test_warp, 64)

// Each thread writes its index to an element of `floats`, relative to the address or in shared memory.
struct TestWrite {
    float* floats;
    int shift;
    int shared;

    __device__ void operator()() const {
        SHARED(float, room);
        (shared ? room : floats)[(int)threadIdx.x + shift] = (float)threadIdx.x;
    }
};
EXPORT_ONE(TestWrite, test_write, 64)

// Does one of several things that are undefined on a GPU or in the language.
struct TestUndefined {
    float* floats;
    int what;
    int number;

    __device__ void operator()() const {
        int room[4] = {1, 2, 3, (int)threadIdx.x};
        if (what == 0) store(floats + number, load<float, 4>(floats));
        else if (what == 1) floats[0] = (float)room[number];
        else if (what == 2) floats[0] = (float)(7 / (number - 1));
        else if (what == 3) floats[0] = (float)(number + 0x7fffffff);
        else fill(number);
    }

    __device__ __noinline__ void fill(int n) const {
        volatile float large[20000];
        for (int i = 0; i < n; ++i) large[i] = 1.0f;
        floats[0] = large[n - 1];
    }
};
EXPORT_ONE(TestUndefined, test_undefined, 64)

// Copies shared memory of which only the first element was written.
struct TestShared {
    float* floats;

    __device__ void operator()() const {
        SHARED(float, room);
        if (threadIdx.x == 0) room[0] = 7.0f;
        __syncthreads();
        floats[blockIdx.x * blockDim.x + threadIdx.x] = room[threadIdx.x];
    }
};
EXPORT_ONE(TestShared, test_shared, 64)

// Copies rows of 16 bytes through shared memory, every other one as zeros, with or without waiting for them.
struct TestCopy {
    const float* from;
    float* to;
    int waits;

    __device__ void operator()() const {
        SHARED(float, room);
        int i = threadIdx.x;
        shim::copy_later(room + 4 * i, i % 2 ? nullptr : from + 4 * i);
        if (waits) shim::copies_arrive();
        __syncthreads();
        int other = blockDim.x - 1 - i;
        store(to + 4 * other, load<float, 4>(room + 4 * other));
    }
};
EXPORT_ONE(TestCopy, test_copy, 64)

// Counts multiples of `divisor` with atomics, in no particular order.
struct TestCount {
    int* count;
    unsigned* largest;
    int divisor;

    __device__ void operator()() const {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i % divisor == 0) atomicAdd(count, 1);
        atomicMax(largest, (unsigned)i);
    }
};
EXPORT_ONE(TestCount, test_count, 64)

// Converts from one type to another.
template <class From, class To> struct TestConvert {
    const From* from;
    To* to;
    int n;

    __device__ void operator()() const {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) to[i] = from_float<To>(to_float(from[i]));
    }
};
typedef TestConvert<float, bf16> TestToBf16;
typedef TestConvert<float, f16> TestToF16;
typedef TestConvert<bf16, float> TestFromBf16;
typedef TestConvert<f16, float> TestFromF16;
EXPORT_ONE(TestToBf16, test_to_bf16, 256)
EXPORT_ONE(TestToF16, test_to_f16, 256)
EXPORT_ONE(TestFromBf16, test_from_bf16, 256)
EXPORT_ONE(TestFromF16, test_from_f16, 256)
