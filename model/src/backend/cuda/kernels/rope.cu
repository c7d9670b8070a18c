// Rotary position embedding on interleaved pairs (Su et al. 2021, eq. 34), combined with the conversion between rows of
// queries, keys and values and the per-head layout of attention.
#include "common.cuh"

template <class T> struct Heads {
    T* rows;             // (n, (n_heads + 2 n_kv_heads) head_dim)
    T* q;                // (n_kv_heads, n, repeats, head_dim)
    T* k;                // (n_kv_heads, n, head_dim)
    T* v;                // (n_kv_heads, n, head_dim)
    const float* cos;    // (positions, head_dim / 2)
    const float* sin;
    const unsigned* positions; // (n,)
    int n, n_kv_heads, repeats, head_dim;
    float scale; // scale of queries

    // Visits every group of N adjacent elements of a row and its place in the per-head layout. `turn` is 1 forward and -1 backward.
    template <int N> __device__ void run(bool split, float turn) const {
        int n_heads = n_kv_heads * repeats, packs = (n_heads + 2 * n_kv_heads) * head_dim / N;
        long long all = (long long)n * packs;
        for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < all;
             at += (long long)gridDim.x * blockDim.x) {
            int row = at / packs, column = at % packs * N, head = column / head_dim, i = column % head_dim;
            T* place;
            bool rotated = true;
            float factor = 1.0f;
            if (head < n_heads) {
                int kv = head / repeats;
                place = q + (((long long)kv * n + row) * repeats + head % repeats) * head_dim + i;
                factor = scale;
            } else {
                rotated = head < n_heads + n_kv_heads;
                int kv = head - n_heads - (rotated ? 0 : n_kv_heads);
                place = (rotated ? k : v) + ((long long)kv * n + row) * head_dim + i;
            }
            T* in_row = rows + (long long)row * packs * N + column;
            Pack<T, N> pack = load<T, N>(split ? in_row : place);
            if (rotated) {
                const long long angle = (long long)positions[row] * (head_dim / 2) + i / 2;
                for (int j = 0; j < N; j += 2) {
                    float c = cos[angle + j / 2] * factor, s = sin[angle + j / 2] * factor * turn;
                    float a = to_float(pack.at[j]), b = to_float(pack.at[j + 1]);
                    pack.at[j] = from_float<T>(a * c - b * s);
                    pack.at[j + 1] = from_float<T>(a * s + b * c);
                }
            }
            store(split ? place : in_row, pack);
        }
    }

    __device__ void run(bool split, float turn) const {
        if (head_dim % wide<T>() == 0) run<wide<T>()>(split, turn);
        else run<2>(split, turn);
    }
};

template <class T> struct SplitHeads : Heads<T> {
    __device__ void operator()() const { this->run(true, 1.0f); }
};
EXPORT(SplitHeads, split_heads, 256)

template <class T> struct JoinHeads : Heads<T> {
    __device__ void operator()() const { this->run(false, -1.0f); }
};
EXPORT(JoinHeads, join_heads, 256)
