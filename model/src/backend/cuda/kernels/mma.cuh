// Products of small matrices by one warp, for attention tiles.
//
// bf16 and f16 use the tensor cores, 16 x 8 x 16 at a time, with f32 sums; f32 uses ordinary multiplications with
// operands in shared memory. Both leave their sums in the same layout, so that code that processes sums is written
// once: of the 16 x 8 sums `float c[4]` of a tile, lane l holds rows l / 4 (c[0], c[1]) and l / 4 + 8 (c[2], c[3]),
// columns 2 (l % 4) and the next one. `float sums[M][N / 8][4]` are 16 M rows of N columns.
//
// A matrix in shared memory has rows of `pitch<T, D>()` elements, 16 bytes more than its D: eight rows then begin in
// eight different groups of four banks, and a read of 16 bytes from each of eight rows has no bank conflicts.
//
// PTX ISA 9.0, sections "Matrix fragments for mma.m16n8k16", "ldmatrix", "cp.async".
#pragma once
#include "common.cuh"

template <class T, int D> __host__ __device__ constexpr int pitch() { return D + 16 / (int)sizeof(T); }

#ifdef EMULATE

// An address in shared memory.
typedef unsigned char* Place;
__device__ inline Place place(const void* at) { return static_cast<Place>(const_cast<void*>(at)); }

// Loads four 8 x 8 matrices; the lanes give the addresses of their rows, eight lanes per matrix.
template <bool TRANSPOSED> __device__ inline void load_matrices(uint32_t (&to)[4], Place row) {
    Place rows[WARP];
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) shim::fail("loads a matrix from %p", row); // as a GPU would
    shim::exchange(&row, rows, sizeof row);
    int lane = threadIdx.x % WARP, major = lane / 4, minor = 2 * (lane % 4);
    for (int i = 0; i < 4; i++) {
        uint16_t pair[2];
        for (int j = 0; j < 2; j++) {
            int r = TRANSPOSED ? minor + j : major, c = TRANSPOSED ? major : minor + j;
            memcpy(&pair[j], rows[8 * i + r] + 2 * c, 2);
        }
        memcpy(&to[i], pair, 4);
    }
}

// A lane's elements of the 16 x 16, 16 x 8 and 16 x 8 matrices in sums += a b.
template <class T> struct Lane {
    T a[8], b[4];
    float sums[4];

    static void multiply_add(Lane* all) {
        float left[16][16], right[16][8];
        for (int lane = 0; lane < WARP; lane++) {
            for (int i = 0; i < 8; i++) {
                left[lane / 4 + 8 * (i / 2 % 2)][2 * (lane % 4) + 8 * (i / 4) + i % 2] = to_float(all[lane].a[i]);
            }
            for (int i = 0; i < 4; i++) right[2 * (lane % 4) + 8 * (i / 2) + i % 2][lane / 4] = to_float(all[lane].b[i]);
        }
        for (int row = 0; row < 16; row++) {
            float sums[8];
            auto sum_of = [=](int column) -> float& { return all[row % 8 * 4 + column / 2].sums[row / 8 * 2 + column % 2]; };
            for (int column = 0; column < 8; column++) sums[column] = sum_of(column);
            for (int k = 0; k < 16; k++) {
                for (int column = 0; column < 8; column++) sums[column] += left[row][k] * right[k][column];
            }
            for (int column = 0; column < 8; column++) sum_of(column) = sums[column];
        }
    }
};
template <class T> __device__ inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Lane<T> mine;
    memcpy(mine.a, a, sizeof a);
    memcpy(mine.b, &b0, 4);
    memcpy(mine.b + 2, &b1, 4);
    memcpy(mine.sums, sums, sizeof sums);
    mine = shim::together<Lane<T>, Lane<T>::multiply_add>(mine);
    memcpy(sums, mine.sums, sizeof sums);
}

__device__ inline float exp2_fast(float x) { return exp2f(x); }

// Copies 16 bytes to shared memory, or writes zeros if not `there`, in which case nothing is read; the data arrives at copy_wait().
__device__ inline void copy_async(Place to, const void* from, bool there) { shim::copy_later(to, there ? from : nullptr); }
__device__ inline void copy_wait() { shim::copies_arrive(); }

#else

typedef uint32_t Place;
__device__ inline Place place(const void* at) { return static_cast<Place>(__cvta_generic_to_shared(at)); }

template <bool TRANSPOSED> __device__ inline void load_matrices(uint32_t (&to)[4], Place row) {
    if (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(row)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(row)
                     : "memory");
    }
}

template <class T> __device__ inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
#define MULTIPLY_ADD(T, name)                                                                             \
    template <> __device__ inline void multiply_add<T>(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { \
        asm("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                                        \
                     ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"               \
                     : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                         \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                     \
    }
MULTIPLY_ADD(bf16, "bf16")
MULTIPLY_ADD(f16, "f16")
#undef MULTIPLY_ADD

__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ inline void copy_async(Place to, const void* from, bool there) {
    int bytes = there ? 16 : 0; // the rest of the 16 bytes becomes zero
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void copy_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#endif

// Left factors and products of a warp, for two-byte T.
template <class T> struct Mma {
    // 16 rows of K elements, held in registers.
    template <int K> struct Registers {
        uint32_t at[K / 16][4];

        // Loads from shared memory; `rows` is the first of the 16 rows.
        template <int PITCH> __device__ static Registers load(const T* rows) {
            Registers all;
#pragma unroll
            for (int k = 0; k < K / 16; k++) Shared<K, PITCH>{rows}.fragment(k, all.at[k]);
            return all;
        }

        // Rounds sums to T. `room` is for types that go through shared memory.
        __device__ static Registers round(const float (&sums)[K / 8][4], T* room) {
            Registers all;
#pragma unroll
            for (int k = 0; k < K / 16; k++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float* pair = &sums[2 * k + i / 2][2 * (i % 2)];
                    Pack<T, 2> two = {{from_float<T>(pair[0]), from_float<T>(pair[1])}};
                    memcpy(&all.at[k][i], &two, 4);
                }
            }
            return all;
        }

        __device__ void fragment(int k, uint32_t (&to)[4]) const {
#pragma unroll
            for (int i = 0; i < 4; i++) to[i] = at[k][i];
        }
    };

    // 16 rows of K elements, read from shared memory when needed.
    template <int K, int PITCH> struct Shared {
        const T* rows;

        template <int> __device__ static Shared load(const T* rows) { return {rows}; }

        __device__ void fragment(int k, uint32_t (&to)[4]) const {
            int lane = threadIdx.x % WARP;
            load_matrices<false>(to, place(rows + lane % 16 * PITCH + lane / 16 * 8) + 32 * k);
        }
    };

    // sums += left right^T; the right factor, N rows of K elements, is in shared memory.
    template <int PITCH, int K, class Left, int M, int TILES>
    __device__ static void add_transposed(float (&sums)[M][TILES][4], const Left (&left)[M], const T* right) {
        int lane = threadIdx.x % WARP;
        const Place at = place(right + (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 8);
#pragma unroll
        for (int k = 0; k < K / 16; k++) {
            uint32_t a[M][4];
#pragma unroll
            for (int m = 0; m < M; m++) left[m].fragment(k, a[m]);
#pragma unroll
            for (int tile = 0; tile < TILES; tile += 2) {
                uint32_t b[4];
                load_matrices<false>(b, at + 16 * tile * PITCH + 32 * k);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    multiply_add<T>(sums[m][tile], a[m], b[0], b[1]);
                    multiply_add<T>(sums[m][tile + 1], a[m], b[2], b[3]);
                }
            }
        }
    }

    // sums += left right; the right factor, K rows of N elements, is in shared memory.
    template <int PITCH, int K, class Left, int M, int TILES>
    __device__ static void add(float (&sums)[M][TILES][4], const Left (&left)[M], const T* right) {
        int lane = threadIdx.x % WARP;
        const Place at = place(right + lane % 16 * PITCH + lane / 16 * 8);
#pragma unroll
        for (int k = 0; k < K / 16; k++) {
            uint32_t a[M][4];
#pragma unroll
            for (int m = 0; m < M; m++) left[m].fragment(k, a[m]);
#pragma unroll
            for (int tile = 0; tile < TILES; tile += 2) {
                uint32_t b[4];
                load_matrices<true>(b, at + 32 * k * PITCH + 16 * tile);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    multiply_add<T>(sums[m][tile], a[m], b[0], b[1]);
                    multiply_add<T>(sums[m][tile + 1], a[m], b[2], b[3]);
                }
            }
        }
    }
};

// The same for f32, with all factors in shared memory.
template <> struct Mma<float> {
    // Rows of K elements, in the warp's scratch area or where they were loaded.
    template <int K> struct Registers {
        const float* rows;
        int row_pitch;

        template <int PITCH> __device__ static Registers load(const float* rows) { return {rows, PITCH}; }

        __device__ static Registers round(const float (&sums)[K / 8][4], float* room) {
            constexpr int PITCH = pitch<float, K>();
            int lane = threadIdx.x % WARP;
            float* to = room + lane / 4 * PITCH + 2 * (lane % 4);
            __syncwarp(); // an earlier product may still read the scratch area
#pragma unroll
            for (int tile = 0; tile < K / 8; tile++) {
                store<float, 2>(to + 8 * tile, {{sums[tile][0], sums[tile][1]}});
                store<float, 2>(to + 8 * tile + 8 * PITCH, {{sums[tile][2], sums[tile][3]}});
            }
            __syncwarp();
            return {room, PITCH};
        }

        __device__ void four(int row, int k, float (&to)[4]) const {
            Pack<float, 4> pack = ::load<float, 4>(rows + row * row_pitch + k);
#pragma unroll
            for (int i = 0; i < 4; i++) to[i] = pack.at[i];
        }
    };

    template <int K, int> using Shared = Registers<K>;

    template <int PITCH, int K, class Left, int M, int TILES>
    __device__ static void add_transposed(float (&sums)[M][TILES][4], const Left (&left)[M], const float* right) {
        int lane = threadIdx.x % WARP, row = lane / 4;
        right += 2 * (lane % 4) * PITCH;
#pragma unroll 2
        for (int k = 0; k < K; k += 4) {
            float a[M][2][4];
#pragma unroll
            for (int m = 0; m < M; m++) left[m].four(row, k, a[m][0]), left[m].four(row + 8, k, a[m][1]);
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                Pack<float, 4> b[2] = {::load<float, 4>(right + 8 * tile * PITCH + k),
                                       ::load<float, 4>(right + (8 * tile + 1) * PITCH + k)};
#pragma unroll
                for (int m = 0; m < M; m++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
#pragma unroll
                        for (int j = 0; j < 4; j++) sums[m][tile][i] += a[m][i / 2][j] * b[i % 2].at[j];
                    }
                }
            }
        }
    }

    template <int PITCH, int K, class Left, int M, int TILES>
    __device__ static void add(float (&sums)[M][TILES][4], const Left (&left)[M], const float* right) {
        int lane = threadIdx.x % WARP, row = lane / 4;
        right += 2 * (lane % 4);
#pragma unroll 1
        for (int k = 0; k < K; k += 4) {
            float a[M][2][4];
#pragma unroll
            for (int m = 0; m < M; m++) left[m].four(row, k, a[m][0]), left[m].four(row + 8, k, a[m][1]);
#pragma unroll
            for (int j = 0; j < 4; j++) {
#pragma unroll
                for (int tile = 0; tile < TILES; tile++) {
                    Pack<float, 2> b = ::load<float, 2>(right + (k + j) * PITCH + 8 * tile);
#pragma unroll
                    for (int m = 0; m < M; m++) {
#pragma unroll
                        for (int i = 0; i < 4; i++) sums[m][tile][i] += a[m][i / 2][j] * b.at[i % 2];
                    }
                }
            }
        }
    }
};
