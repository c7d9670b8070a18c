// Shared by the attention kernels: documents and their tiles, visibility of keys, loading tiles into shared memory.
//
// Each key-value head has a matrix of query rows, (n repeats, head_dim): row / repeats is the position. A row at
// position p sees the keys p + offset - window + 1 .. p + offset, where offset is the number of keys minus the number
// of queries of its document.
//
// As in FlashAttention-2 (Dao 2023), scores exist in registers only, 16 rows of them per warp and step.
#pragma once
#include "mma.cuh"
#include <type_traits>

struct Document {
    int q_start, q_len; // range of positions of the queries
    int k_start, k_len; // range of the keys; the queries belong to the last q_len of them
};

struct Tile {
    int document, first; // first query row or first key, counted within the document
};

struct Attention {
    const Document* documents;
    const Tile* tiles;
    Dropout dropout;
    int n, n_keys; // number of query and key positions in the batch
    int kv_heads, repeats, head_dim;
    int window; // at most 2^30, which means no window
};

constexpr int ATTENTION_WARPS = 4, ATTENTION_THREADS = ATTENTION_WARPS * WARP;
constexpr float LOG2E = 1.4426950408889634f;

// exp(x - from). f32 subtracts first, which is exact for nearby numbers; the other types use a single fused operation.
template <class T> struct Exponential {
    __device__ static float scaled(float from) { return from * LOG2E; }
    __device__ static float of(float x, float scaled_from) { return exp2_fast(fmaf(x, LOG2E, -scaled_from)); }
};
template <> struct Exponential<float> {
    __device__ static float scaled(float from) { return from; }
    __device__ static float of(float x, float scaled_from) { return exp2_fast((x - scaled_from) * LOG2E); }
};

// The work of one block.
struct Work {
    Attention all;
    Document document;
    int head, first, rows, offset;
    unsigned reciprocal; // of repeats, times 2^32

    __device__ explicit Work(const Attention& all) : all(all) {
        Tile tile = all.tiles[blockIdx.x / all.kv_heads];
        head = blockIdx.x % all.kv_heads; // the head varies fastest: the longest tiles of all heads run first
        document = all.documents[tile.document];
        first = tile.first;
        rows = document.q_len * all.repeats;
        offset = document.k_len - document.q_len;
        reciprocal = 0xffffffffu / all.repeats + 1; // exact for rows below 2^32 / repeats
    }

    // Returns the position of a row.
    __device__ int position(int row) const { return all.repeats == 1 ? row : (int)__umulhi(row, reciprocal); }

    // Index of a document's query row in arrays (kv_heads, n, repeats), and of a key in arrays (kv_heads, n_keys).
    __device__ size_t query_row(int row) const {
        return ((size_t)head * all.n + document.q_start) * all.repeats + row;
    }
    __device__ size_t key_row(int key) const { return (size_t)head * all.n_keys + document.k_start + key; }

    // Offset of a row's elements in arrays (n, heads head_dim).
    __device__ size_t joined(int row) const {
        int per_head = all.repeats * all.head_dim, position = this->position(row);
        size_t start = ((size_t)document.q_start * all.kv_heads + head) * per_head;
        return start + (size_t)(all.kv_heads - 1) * per_head * position + (size_t)all.head_dim * row;
    }

    // Whether dropout keeps a probability: see Dropout::probability in dropout.rs.
    __device__ bool keeps(int row, int key) const {
        int position = this->position(row), repeat = row - position * all.repeats;
        uint64_t place = ((uint64_t)(head * all.repeats + repeat) * all.n + document.q_start + position) * all.n;
        return all.dropout.keeps(place + document.k_start + key);
    }

    // Returns a bit mask of which of the COUNT probabilities that a lane holds of 16 rows are kept by dropout; rows are
    // queries and columns keys, or the reverse. The loop is not unrolled, so that sums stay in registers without dropout.
    template <int COUNT, bool KEYS_FIRST> __device__ uint32_t kept(int row, int column) const {
        int lane = threadIdx.x % WARP;
        uint32_t bits = 0;
        row += lane / 4;
        column += 2 * (lane % 4);
#pragma unroll 1
        for (int i = 0; i < COUNT; i++) {
            int r = row + i / 2 % 2 * 8, c = column + i / 4 * 8 + i % 2;
            bits |= (uint32_t)(KEYS_FIRST ? keeps(c, r) : keeps(r, c)) << i;
        }
        return bits;
    }

};

// Multiplies elements whose bit is set by the dropout factor, and the others by 0.
template <int TILES> __device__ inline void drop(float (&sums)[TILES][4], uint32_t kept, float rate) {
    const float factor = 1.0f / (1.0f - rate);
#pragma unroll
    for (int i = 0; i < 4 * TILES; i++) sums[i / 4][i % 4] *= kept >> i & 1 ? factor : 0.0f;
}

// Copies rows of head_dim elements to shared memory, padded with zeros to D elements each; missing rows become zero.
// `from(row)` is the address of a row's elements. The data is available after copy_wait() and a barrier.
template <class T, int D, int ROWS, class From>
__device__ inline void bring(T* to, int rows, int head_dim, From from) {
    constexpr int WIDE = wide<T>(), PIECES = D / WIDE, PITCH = pitch<T, D>();
    if (head_dim % WIDE == 0) {
        // If the pieces of a row divide the threads evenly, each thread has a fixed column, which the compiler can exploit.
        constexpr int TOGETHER = ATTENTION_THREADS % PIECES == 0 ? ATTENTION_THREADS / PIECES : 0;
        // Elements beyond the end are not read, but their source address must still be valid.
        const int first = threadIdx.x / PIECES, column = threadIdx.x % PIECES * WIDE;
        const int from_column = column < head_dim ? column : 0;
        const Place place_of_first = place(to + first * PITCH + column);
#pragma unroll
        for (int i = 0; i < (ROWS * PIECES + ATTENTION_THREADS - 1) / ATTENTION_THREADS; i++) {
            if constexpr (TOGETHER > 0) {
                const int row = first + i * TOGETHER;
                if (ROWS % TOGETHER != 0 && row >= ROWS) break;
                const T* numbers = from(min(row, rows - 1)) + from_column;
                const bool there = row < rows && column < head_dim;
                copy_async(place_of_first + (int)sizeof(T) * i * TOGETHER * PITCH, numbers, there);
            } else {
                const int piece = i * ATTENTION_THREADS + threadIdx.x, row = piece / PIECES, column = piece % PIECES * WIDE;
                if (ROWS * PIECES % ATTENTION_THREADS != 0 && row >= ROWS) break;
                const bool there = row < rows && column < head_dim;
                copy_async(place(to + row * PITCH + column), there ? from(row) + column : from(0), there);
            }
        }
    } else {
#pragma unroll 1
        for (int i = threadIdx.x; i < ROWS * D; i += ATTENTION_THREADS) {
            int row = i / D, column = i % D;
            bool there = row < rows && column < head_dim;
            to[row * PITCH + column] = there ? from(row)[column] : from_float<T>(0.0f);
        }
    }
}

// Writes 16 rows of a warp, scaled by one factor per half of them, through a scratch area of 16 rows per warp so that
// writes are coalesced. `to(row)` is the destination of a row; there are `rows` of them.
template <class T, int D, class To>
__device__ inline void write_rows(const float (&sums)[D / 8][4], const float (&factors)[2], T* room, int rows, int head_dim,
                                  To to) {
    constexpr int WIDE = wide<T>(), PIECES = D / WIDE, PITCH = pitch<T, D>();
    const int lane = threadIdx.x % WARP;
    __syncwarp(); // the scratch area may still be read
#pragma unroll
    for (int i = 0; i < D / 4; i++) {
        const int half = i % 2, row = lane / 4 + 8 * half, column = i / 2 * 8 + 2 * (lane % 4);
        const float* pair = &sums[i / 2][2 * half];
        store<T, 2>(room + row * PITCH + column,
                    {{from_float<T>(pair[0] * factors[half]), from_float<T>(pair[1] * factors[half])}});
    }
    __syncwarp();
    if (head_dim % WIDE == 0) {
#pragma unroll
        for (int i = 0; i < 16 * PIECES / WARP; i++) {
            const int piece = i * WARP + lane, row = piece / PIECES, column = piece % PIECES * WIDE;
            if (row < rows && column < head_dim) store<T, WIDE>(to(row) + column, load<T, WIDE>(room + row * PITCH + column));
        }
    } else {
#pragma unroll 1
        for (int i = lane; i < 16 * D; i += WARP) {
            const int row = i / D, column = i % D;
            if (row < rows && column < head_dim) to(row)[column] = room[row * PITCH + column];
        }
    }
}

template <class T, int D> struct QueryTile {
    static constexpr bool NARROW = sizeof(T) == 2;
    static constexpr int M = NARROW && D <= 64 ? 2 : 1;         // tiles of 16 rows per warp
    static constexpr int ROWS = ATTENTION_WARPS * 16 * M;       // per block
    static constexpr int KEYS = NARROW ? 64 : D <= 64 ? 32 : 16; // per step
    static constexpr int STAGES = NARROW ? 2 : 1;               // steps in shared memory at a time
};
