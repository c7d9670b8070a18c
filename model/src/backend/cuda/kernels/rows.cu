// Element-wise and row-wise operations on activations, and conversions from and to f32.
#include "common.cuh"

// Iterates over the elements that this thread processes, N at a time.
#define EACH_PACK(i, len, N)                                                                       \
    for (long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * N; i + N <= (len); \
         i += (long long)gridDim.x * blockDim.x * N)

// y += x.
template <class T> struct Add {
    T* y;
    const T* x;
    long long len;

    template <int N> __device__ void run() const {
        EACH_PACK(i, len, N) {
            Pack<T, N> a = load<T, N>(y + i), b = load<T, N>(x + i);
            for (int j = 0; j < N; j++) a.at[j] = from_float<T>(to_float(a.at[j]) + to_float(b.at[j]));
            store(y + i, a);
        }
    }

    __device__ void operator()() const {
        if (len % wide<T>() == 0) run<wide<T>()>();
        else run<1>();
    }
};
EXPORT(Add, add, 256)

// x *= dropout factors.
template <class T> struct Drop {
    T* x;
    long long len;
    Dropout dropout;

    __device__ void operator()() const {
        EACH_PACK(i, len, 1) x[i] = from_float<T>(to_float(x[i]) * dropout.factor(i));
    }
};
EXPORT(Drop, dropout, 256)

// Gathers rows of `from`, at index places[i] / divisor: (n, width).
template <class T> struct Gather {
    T* to;
    const T* from;
    const unsigned* places;
    int n, width, divisor;

    template <int N> __device__ void run() const {
        int packs = width / N;
        EACH_PACK(i, (long long)n * packs, 1) {
            int row = i / packs, column = i % packs * N;
            store(to + (long long)row * width + column,
                  load<T, N>(from + (long long)(places[row] / divisor) * width + column));
        }
    }

    __device__ void operator()() const {
        if (width % wide<T>() == 0) run<wide<T>()>();
        else run<1>();
    }
};
EXPORT(Gather, gather, 256)

// Scatters the rows of `from` to the rows of `to` given by `places`.
template <class T> struct Scatter {
    T* to;
    const T* from;
    const unsigned* places;
    int n, width;

    template <int N> __device__ void run() const {
        int packs = width / N;
        EACH_PACK(i, (long long)n * packs, 1) {
            int row = i / packs, column = i % packs * N;
            store(to + (long long)places[row] * width + column,
                  load<T, N>(from + (long long)row * width + column));
        }
    }

    __device__ void operator()() const {
        if (width % wide<T>() == 0) run<wide<T>()>();
        else run<1>();
    }
};
EXPORT(Scatter, scatter, 256)

// Converts f32 to T.
template <class T> struct Narrow {
    T* to;
    const float* from;
    long long len;

    __device__ void operator()() const {
        EACH_PACK(i, len, 1) to[i] = from_float<T>(from[i]);
    }
};
EXPORT(Narrow, narrow, 256)

// Converts T to f32.
template <class T> struct Widen {
    float* to;
    const T* from;
    long long len;

    __device__ void operator()() const {
        EACH_PACK(i, len, 1) to[i] = to_float(from[i]);
    }
};
EXPORT(Widen, widen, 256)

// Adds to each of `width` sums the elements of its column in `partial`, (rows, width), always in the same order. A
// block processes 32 columns with 1024 threads; each warp takes every 32nd row.
struct ColumnSum {
    float* sums;
    const float* partial;
    int rows, width;

    __device__ void operator()() const {
        SHARED(float, room); // (warps, 32)
        int column = blockIdx.x * WARP + threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
        float sum = 0.0f;
        if (column < width)
            for (int row = warp; row < rows; row += warps) sum += partial[(long long)row * width + column];
        room[threadIdx.x] = sum;
        __syncthreads();
        if (warp > 0 || column >= width) return;
        float total = 0.0f;
        for (int i = 0; i < warps; i++) total += room[i * WARP + threadIdx.x];
        sums[column] += total;
    }
};
EXPORT_ONE(ColumnSum, column_sum, 1024)

// Copies positions of keys and values for every head: (heads, count, head_dim) per piece.
template <class T> struct CopyPositions {
    struct Piece {
        T* to;
        const T* from;
        long long to_stride, from_stride; // between heads
        int len, unused;                  // elements per head
    };
    const Piece* pieces;

    __device__ void operator()() const {
        Piece piece = pieces[blockIdx.y];
        T* to = piece.to + blockIdx.z * piece.to_stride;
        const T* from = piece.from + blockIdx.z * piece.from_stride;
        EACH_PACK(i, piece.len, 1) to[i] = from[i];
    }
};
EXPORT(CopyPositions, copy_positions, 256)
