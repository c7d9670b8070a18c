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

// What a lane holds of a row: PACKS times N neighbours, the next ones WARP * N further on.
template <class T, int N, int PACKS> struct Part {
    float at[PACKS][N];

    __device__ static Part read(const T* row, int d) {
        Part part;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int i = (p * WARP + threadIdx.x % WARP) * N;
            if (i < d) {
                Pack<T, N> pack = load<T, N>(row + i);
#pragma unroll
                for (int j = 0; j < N; j++) part.at[p][j] = to_float(pack.at[j]);
            } else {
#pragma unroll
                for (int j = 0; j < N; j++) part.at[p][j] = 0.0f;
            }
        }
        return part;
    }

    // From and to a place that may not be aligned.
    __device__ static Part read_any(const T* row, int d) {
        Part part;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int i = (p * WARP + threadIdx.x % WARP) * N;
#pragma unroll
            for (int j = 0; j < N; j++) part.at[p][j] = i < d ? to_float(row[i + j]) : 0.0f;
        }
        return part;
    }

    __device__ void write_any(T* row, int d) const {
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int i = (p * WARP + threadIdx.x % WARP) * N;
            if (i >= d) continue;
#pragma unroll
            for (int j = 0; j < N; j++) row[i + j] = from_float<T>(at[p][j]);
        }
    }

    __device__ void write(T* row, int d) const {
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int i = (p * WARP + threadIdx.x % WARP) * N;
            if (i >= d) continue;
            Pack<T, N> pack;
#pragma unroll
            for (int j = 0; j < N; j++) pack.at[j] = from_float<T>(at[p][j]);
            store(row + i, pack);
        }
    }
};

// Calls a kernel's run<N, PACKS>(), a lane holding what it has of a row, or of so much of it at a time.
#define RUN_IN_PARTS()                                       \
    if (!rows_are_wide<T>(width, first, d)) {                \
        if (d <= WARP) run<1, 1>();                          \
        else run<1, 4>();                                    \
    } else if (d <= WARP * wide<T>()) run<wide<T>(), 1>();   \
    else if (d <= 2 * WARP * wide<T>()) run<wide<T>(), 2>(); \
    else if (d <= 3 * WARP * wide<T>()) run<wide<T>(), 3>(); \
    else run<wide<T>(), 4>();

// y = x / rms(x) * scale, a warp a row; `y` may be `x`.
template <class T> struct RmsNorm {
    T* y;
    float* inverse; // 1 / rms, (rows,): written, or read where `again`
    const T* x;
    const float* scale;
    int rows, d, heads, width, first, again;
    float eps;

    template <int N, int PACKS> __device__ void run() const {
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
                    for (int j = 0; j < N; j++) squares += part.at[p][j] * part.at[p][j];
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
                for (int j = 0; j < N; j++) part.at[p][j] *= r * scales.at[p][j];
            part.write(y + start + i, d - i);
        }
    }

    __device__ void operator()() const { RUN_IN_PARTS() }
};
EXPORT(RmsNorm, rms_norm, 256)

// With r = 1 / rms: dx = r w dy - r^3 x mean(x w dy), added to `dx` or instead of what is there; each block's sum over
// its rows of dw = r x dy goes to its row of `partial`, (blocks, d). Each warp keeps its sums in registers, or where rows
// are longer than those in shared memory, (warps, d).
template <class T> struct RmsNormBackward {
    T* dx; // may be `dy` where it is not added to
    float* partial;
    const T* dy;
    const T* x;
    const float* inverse;
    const float* scale;
    int rows, rows_per_block, d, heads, width, first, adds;

    template <int N, int PACKS> __device__ void run() const {
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
            Some of_x = {}, of_y = {};
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
                        float product = of_x.at[p][j] * of_y.at[p][j];
                        inner += product * scales.at[p][j];
                        sums.at[p][j] += r * product;
                    }
                if (!whole) sums.write_any(mine + i, d - i);
            }
            float pull = r * r * r * warp_sum(inner) / d;
            for (int i = 0; i < d; i += STEP) {
                if (!whole) {
                    of_x = Some::read(x + start + i, d - i);
                    of_y = Some::read(dy + start + i, d - i);
                    scales = Sums::read_any(scale + i, d - i);
                }
                Some sum = {};
                if (adds) sum = Some::read(dx + start + i, d - i);
#pragma unroll
                for (int p = 0; p < PACKS; p++)
#pragma unroll
                    for (int j = 0; j < N; j++)
                        sum.at[p][j] += r * scales.at[p][j] * of_y.at[p][j] - pull * of_x.at[p][j];
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
EXPORT(RmsNormBackward, rms_norm_backward, 256)
