// RMSNorm over rows, or over heads that lie side by side in rows (Zhang & Sennrich 2019, eq. 4).
//
// Row i of `rows` is head i % heads of row i / heads of the buffer, whose rows are `width` wide with the heads from
// column `first` on; a norm over whole rows has one head of the full width.
#include "common.cuh"

template <class T> __device__ inline long long row_start(int row, int heads, int width, int first, int d) {
    return (long long)(row / heads) * width + first + row % heads * d;
}

// Whether rows can be read 16 bytes at a time.
template <class T> __device__ inline bool rows_are_wide(int width, int first, int d) {
    return width % wide<T>() == 0 && first % wide<T>() == 0 && d % wide<T>() == 0;
}

// What a lane holds of a row: PACKS times N neighbours, the next ones WARP * N further on. Zeros beyond its end.
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

    // From and to a place that may not be aligned.
    __device__ static Part read_any(const T* row, int d) {
        constexpr int STEP = N * sizeof(T) > 16 ? 16 / (int)sizeof(T) : N; // 8 of f32 are two of 16 bytes
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

// A kernel's run<N>(), 16 bytes at a time where rows allow it.
#define RUN_IN_PARTS()                                          \
    if (rows_are_wide<T>(width, first, d)) run<wide<T>()>(); \
    else run<1>();

// A kernel for each number of packs that a lane holds: rms_norm_1_bf16 and so on. Of longer rows it holds a part at a time.
#define EXPORT_PARTS(Kernel, name)                       \
    template <class T> using Kernel##1 = Kernel<T, 1>;   \
    template <class T> using Kernel##2 = Kernel<T, 2>;   \
    template <class T> using Kernel##3 = Kernel<T, 3>;   \
    template <class T> using Kernel##4 = Kernel<T, 4>;   \
    EXPORT(Kernel##1, name##_1, 256)                     \
    EXPORT(Kernel##2, name##_2, 256)                     \
    EXPORT(Kernel##3, name##_3, 256)                     \
    EXPORT(Kernel##4, name##_4, 256)

// y = x / rms(x) * scale, a warp a row; `y` may be `x`.
template <class T, int PACKS> struct RmsNorm {
    T* y;
    float* inverse; // 1 / rms, (rows,): written, or read where `again`
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
        Some part = Some::read(x + start, d);
        float r;
        if (again) {
            r = inverse[row];
        } else {
            float squares = 0.0f;
            for (int i = 0; i < d; i += STEP) {
                if (i > 0) part = Some::read(x + start + i, d - i);
#pragma unroll
                for (int p = 0; p < PACKS; p++)
#pragma unroll
                    for (int j = 0; j < N; j++) squares += part.at(p, j) * part.at(p, j);
            }
            r = 1.0f / sqrtf(warp_sum(squares) / d + eps);
            if (lane == 0) inverse[row] = r;
        }
        for (int i = 0; i < d; i += STEP) {
            if (d > STEP) part = Some::read(x + start + i, d - i);
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
EXPORT_PARTS(RmsNorm, rms_norm)

// With r = 1 / rms: dx = r w dy - r^3 x mean(x w dy), added to `dx` or instead of what is there; each block's sum over
// its rows of dw = r x dy goes to its row of `partial`, (blocks, d). Each warp keeps its sums in registers, or where rows
// are longer than those in shared memory, (warps, d).
template <class T, int PACKS> struct RmsNormBackward {
    T* dx; // may be `dy` where it is not added to
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
        const bool whole = d <= STEP; // a lane holds all that it has of a row
        Sums sums = {}, scales = Sums::read_any(scale, d);
        if (!whole)
            for (int i = lane; i < d; i += WARP) mine[i] = 0.0f;
        __syncwarp();
        int begin = blockIdx.x * rows_per_block, end = min(begin + rows_per_block, rows);
        for (int row = begin + warp; row < end; row += warps) {
            long long start = row_start<T>(row, heads, width, first, d);
            float r = inverse[row], inner = 0.0f;
            Some of_x = {}, of_y = {}, sum = {};
            if (whole && adds) sum = Some::read(dx + start, d); // on its way while the rest is computed
            for (int i = 0; i < d; i += STEP) {
                of_x = Some::read(x + start + i, d - i);
                of_y = Some::read(dy + start + i, d - i);
                if (!whole) {
                    scales = Sums::read_any(scale + i, d - i);
                    sums = Sums::read_any(mine + i, d - i);
                }
#pragma unroll
                for (int p = 0; p < PACKS; p++)
#pragma unroll
                    for (int j = 0; j < N; j++) {
                        float product = of_x.at(p, j) * of_y.at(p, j);
                        inner += product * scales.at(p, j);
                        sums.set(p, j, sums.at(p, j) + r * product);
                    }
                if (!whole) sums.write_any(mine + i, d - i);
            }
            float pull = r * r * r * warp_sum(inner) / d;
            for (int i = 0; i < d; i += STEP) {
                if (!whole) {
                    of_x = Some::read(x + start + i, d - i);
                    of_y = Some::read(dy + start + i, d - i);
                    scales = Sums::read_any(scale + i, d - i);
                    sum = {};
                    if (adds) sum = Some::read(dx + start + i, d - i);
                }
#pragma unroll
                for (int p = 0; p < PACKS; p++)
#pragma unroll
                    for (int j = 0; j < N; j++)
                        sum.set(p, j, sum.at(p, j) + r * scales.at(p, j) * of_y.at(p, j) - pull * of_x.at(p, j));
                sum.write(dx + start + i, d - i);
            }
        }
        if (whole) sums.write_any(mine, d);
        __syncthreads();
        for (int i = threadIdx.x; i < d; i += blockDim.x) {
            float sum = 0.0f;
            for (int w = 0; w < warps; w++) sum += room[w * d + i];
            partial[(long long)blockIdx.x * d + i] = sum;
        }
    }

    __device__ void operator()() const { RUN_IN_PARTS() }
};
EXPORT_PARTS(RmsNormBackward, rms_norm_backward)
