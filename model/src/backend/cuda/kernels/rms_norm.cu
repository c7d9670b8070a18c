// RMSNorm over rows, or over adjacent heads within rows (Zhang & Sennrich 2019, eq. 4).
//
// Row i of `rows` is head i % heads of row i / heads of the buffer, whose rows are `width` wide with the heads starting
// at column `first`; a norm over whole rows has one head of the full width.
#include "common.cuh"

template <class T> __device__ inline long long row_start(int row, int heads, int width, int first, int d) {
    return (long long)(row / heads) * width + first + row % heads * d;
}

// Whether rows can be read 16 bytes at a time.
template <class T> __device__ inline bool rows_are_wide(int width, int first, int d) {
    return width % wide<T>() == 0 && first % wide<T>() == 0 && d % wide<T>() == 0;
}

// A lane's part of a row: PACKS groups of N adjacent elements, WARP * N elements apart. Zeros beyond the end of the row.
template <class T, int N, int PACKS> struct Part {
    Pack<T, N> packs[PACKS];

    __device__ static int place(int p) { return (p * WARP + threadIdx.x % WARP) * N; }
    __device__ float at(int p, int j) const { return to_float(packs[p].at[j]); }
    __device__ void set(int p, int j, float x) { packs[p].at[j] = from_float<T>(x); }

    __device__ static Part read(const T* row, int d) {
        Part part = {};
#pragma unroll
        for (int p = 0; p < PACKS; p++)
            if (place(p) < d) part.packs[p] = load<T, N>(row + place(p));
        return part;
    }

    __device__ void write(T* row, int d) const {
#pragma unroll
        for (int p = 0; p < PACKS; p++)
            if (place(p) < d) store(row + place(p), packs[p]);
    }

    // Read from and write to an address that may not be aligned.
    __device__ static Part read_any(const T* row, int d) {
        constexpr int STEP = N * sizeof(T) > 16 ? 16 / (int)sizeof(T) : N; // 8 f32 elements are two loads of 16 bytes
        bool is_aligned = (uintptr_t)row % (STEP * sizeof(T)) == 0;
        Part part = {};
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            if (place(p) >= d) continue;
#pragma unroll
            for (int j = 0; j < N; j += STEP) {
                Pack<T, STEP> some = {};
                if (is_aligned) {
                    some = load<T, STEP>(row + place(p) + j);
                } else {
#pragma unroll
                    for (int k = 0; k < STEP; k++) some.at[k] = row[place(p) + j + k];
                }
#pragma unroll
                for (int k = 0; k < STEP; k++) part.packs[p].at[j + k] = some.at[k];
            }
        }
        return part;
    }

    __device__ void write_any(T* row, int d) const {
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            if (place(p) >= d) continue;
#pragma unroll
            for (int j = 0; j < N; j++) row[place(p) + j] = packs[p].at[j];
        }
    }
};

// Calls run<N>() of a kernel, with 16 bytes at a time if the rows allow it.
#define RUN_IN_PARTS()                                          \
    if (rows_are_wide<T>(width, first, d)) run<wide<T>()>(); \
    else run<1>();

// y = x / rms(x) * scale, one warp per row; `y` may be `x`.
template <class T, int PACKS, bool WHOLE> struct RmsNorm {
    T* y;
    float* inverse; // 1 / rms, (rows,): written, or read if `again`
    const T* x;
    const float* scale;
    int rows, d, heads, width, first, again;
    float eps;

    template <int N> __device__ void run() const {
        typedef Part<T, N, PACKS> Some;
        constexpr int STEP = WARP * N * PACKS;
        int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
        if (row >= rows) return;
        long long start = row_start<T>(row, heads, width, first, d);
        const int end = WHOLE ? 1 : d; // a single part, or several in sequence
        Some part = Some::read(x + start, d);
        float r;
        if (again) {
            r = inverse[row];
        } else {
            float squares = 0.0f;
            for (int i = 0; i < end; i += STEP) {
                if (!WHOLE) part = Some::read(x + start + i, d - i);
#pragma unroll
                for (int p = 0; p < PACKS; p++)
#pragma unroll
                    for (int j = 0; j < N; j++) squares += part.at(p, j) * part.at(p, j);
            }
            r = 1.0f / sqrtf(warp_sum(squares) / d + eps);
            if (lane == 0) inverse[row] = r;
        }
        for (int i = 0; i < end; i += STEP) {
            if (!WHOLE) part = Some::read(x + start + i, d - i);
            Part<float, N, PACKS> scales = Part<float, N, PACKS>::read_any(scale + i, d - i);
#pragma unroll
            for (int p = 0; p < PACKS; p++)
#pragma unroll
                for (int j = 0; j < N; j++) part.set(p, j, part.at(p, j) * r * scales.at(p, j));
            part.write(y + start + i, d - i);
        }
    }

    __device__ void operator()() const { RUN_IN_PARTS() }
};
template <class T> using RmsNorm1 = RmsNorm<T, 1, true>;
template <class T> using RmsNorm2 = RmsNorm<T, 2, true>;
template <class T> using RmsNorm3 = RmsNorm<T, 3, true>;
template <class T> using RmsNorm4 = RmsNorm<T, 4, true>;
template <class T> using RmsNormLong = RmsNorm<T, 4, false>;
EXPORT(RmsNorm1, rms_norm_1, 256)
EXPORT(RmsNorm2, rms_norm_2, 256)
EXPORT(RmsNorm3, rms_norm_3, 256)
EXPORT(RmsNorm4, rms_norm_4, 256)
EXPORT(RmsNormLong, rms_norm_long, 256)

// With r = 1 / rms: dx = r w dy - r^3 x mean(x w dy), added to `dx` or overwriting it; each block's sum over its rows
// of dw = r x dy is written to its row of `partial`, (blocks, d). Each warp keeps its sums in registers or, if rows are
// too long for that, in shared memory, (warps, d).
template <class T, int PACKS, bool WHOLE> struct RmsNormBackward {
    T* dx; // may be `dy` if it is overwritten
    float* partial;
    const T* dy;
    const T* x;
    const float* inverse;
    const float* scale;
    int rows, rows_per_block, d, heads, width, first, adds;

    template <int N> __device__ void run() const {
        typedef Part<T, N, PACKS> Some;
        typedef Part<float, N, PACKS> Sums;
        constexpr int STEP = WARP * N * PACKS;
        SHARED(float, room); // (warps, d)
        int warp = threadIdx.x / WARP, warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
        float* mine = room + warp * d;
        const int end_of_row = WHOLE ? 1 : d; // a single part, or several in sequence
        Sums sums = {};
        if (!WHOLE)
            for (int i = lane; i < d; i += WARP) mine[i] = 0.0f;
        __syncwarp();
        int begin = blockIdx.x * rows_per_block, end = min(begin + rows_per_block, rows);
        for (int row = begin + warp; row < end; row += warps) {
            long long start = row_start<T>(row, heads, width, first, d);
            float r = inverse[row], inner = 0.0f;
            Some of_x = {}, of_y = {}, sum = {};
            if (WHOLE && adds) sum = Some::read(dx + start, d); // the load overlaps the computation below
            for (int i = 0; i < end_of_row; i += STEP) {
                of_x = Some::read(x + start + i, d - i);
                of_y = Some::read(dy + start + i, d - i);
                Sums scales = Sums::read_any(scale + i, d - i); // from the L1 cache each time: registers are scarce
                if (!WHOLE) sums = Sums::read_any(mine + i, d - i);
#pragma unroll
                for (int p = 0; p < PACKS; p++)
#pragma unroll
                    for (int j = 0; j < N; j++) {
                        float product = of_x.at(p, j) * of_y.at(p, j);
                        inner += product * scales.at(p, j);
                        sums.set(p, j, sums.at(p, j) + r * product);
                    }
                if (!WHOLE) sums.write_any(mine + i, d - i);
            }
            float pull = r * r * r * warp_sum(inner) / d;
            for (int i = 0; i < end_of_row; i += STEP) {
                if (!WHOLE) {
                    of_x = Some::read(x + start + i, d - i);
                    of_y = Some::read(dy + start + i, d - i);
                    sum = {};
                    if (adds) sum = Some::read(dx + start + i, d - i);
                }
                Sums scales = Sums::read_any(scale + i, d - i);
#pragma unroll
                for (int p = 0; p < PACKS; p++)
#pragma unroll
                    for (int j = 0; j < N; j++)
                        sum.set(p, j, sum.at(p, j) + r * scales.at(p, j) * of_y.at(p, j) - pull * of_x.at(p, j));
                sum.write(dx + start + i, d - i);
            }
        }
        if (WHOLE) sums.write_any(mine, d);
        __syncthreads();
        for (int i = threadIdx.x; i < d; i += blockDim.x) {
            float sum = 0.0f;
            for (int w = 0; w < warps; w++) sum += room[w * d + i];
            partial[(long long)blockIdx.x * d + i] = sum;
        }
    }

    __device__ void operator()() const { RUN_IN_PARTS() }
};
template <class T> using RmsNormBackward1 = RmsNormBackward<T, 1, true>;
template <class T> using RmsNormBackwardLong = RmsNormBackward<T, 2, false>;
EXPORT(RmsNormBackward1, rms_norm_backward_1, 256)
EXPORT(RmsNormBackwardLong, rms_norm_backward_long, 256)

// The same for wide rows with 16-byte alignment, one block per row, two rows at a time: each thread has its own columns
// and their sums. Requires at least d / wide<T>() threads.
template <class T> struct RmsNormBackwardWide {
    T* dx;
    float* partial;
    const T* dy;
    const T* x;
    const float* inverse;
    const float* scale;
    int rows, rows_per_block, d, heads, width, first, adds;

    __device__ void operator()() const {
        constexpr int N = wide<T>();
        SHARED(float, room); // (2, warps)
        int column = threadIdx.x * N, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
        bool there = column < d;
        float scales[N], sums[N] = {};
#pragma unroll
        for (int j = 0; j < N; j++) scales[j] = there ? scale[column + j] : 0.0f;
        int begin = blockIdx.x * rows_per_block, end = min(begin + rows_per_block, rows);
        for (int row = begin; row < end; row += 2) {
            Pack<T, N> of_x[2] = {}, of_y[2] = {}, sum[2] = {};
            float r[2], inner[2] = {};
#pragma unroll
            for (int i = 0; i < 2; i++) {
                bool counts = row + i < end;
                long long start = row_start<T>(row + i, heads, width, first, d) + column;
                r[i] = counts ? inverse[row + i] : 0.0f;
                if (!there || !counts) continue;
                of_x[i] = load<T, N>(x + start);
                of_y[i] = load<T, N>(dy + start);
                if (adds) sum[i] = load<T, N>(dx + start);
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
#pragma unroll
                for (int j = 0; j < N; j++) {
                    float product = to_float(of_x[i].at[j]) * to_float(of_y[i].at[j]);
                    inner[i] += product * scales[j];
                    sums[j] += r[i] * product;
                }
                inner[i] = warp_sum(inner[i]);
            }
            __syncthreads(); // all threads have read the sums of the previous rows
            if (threadIdx.x % WARP == 0) {
                room[warp] = inner[0];
                room[warps + warp] = inner[1];
            }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float total = 0.0f;
                for (int w = 0; w < warps; w++) total += room[i * warps + w];
                float pull = r[i] * r[i] * r[i] * total / d;
                if (!there || row + i >= end) continue;
#pragma unroll
                for (int j = 0; j < N; j++) {
                    float more = r[i] * scales[j] * to_float(of_y[i].at[j]) - pull * to_float(of_x[i].at[j]);
                    sum[i].at[j] = from_float<T>(to_float(sum[i].at[j]) + more);
                }
                store(dx + row_start<T>(row + i, heads, width, first, d) + column, sum[i]);
            }
        }
        if (!there) return;
#pragma unroll
        for (int j = 0; j < N; j++) partial[(long long)blockIdx.x * d + column + j] = sums[j];
    }
};
EXPORT(RmsNormBackwardWide, rms_norm_backward_wide, 256)
