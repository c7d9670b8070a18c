// Causal grouped-query attention within ragged documents: a block processes a tile of queries of one key-value head
// against the keys that it sees, step by step, keeping the running maximum and sum of each row (FlashAttention-2, Dao
// 2023, algorithm 1).
#include "attention.cuh"

template <class T, int D> struct AttentionForward {
    const T* q; // (kv_heads, n, repeats, head_dim), rotated and scaled
    const T* k; // (kv_heads, n_keys, head_dim)
    const T* v;
    T* out;     // (n, kv_heads repeats head_dim)
    float* lse; // (kv_heads, n, repeats), natural logarithm
    Attention attention;

    typedef QueryTile<T, D> Size;
    static constexpr int M = Size::M, ROWS = Size::ROWS, KEYS = Size::KEYS, STAGES = Size::STAGES, PITCH = pitch<T, D>();
    typedef typename Mma<T>::template Registers<D> Queries;
    typedef typename Mma<T>::template Registers<KEYS> Probabilities;

    // Layout of shared memory: the first step; then the queries, which the second step overwrites once they are in
    // registers; then the scratch areas of the warps.
    __device__ static T* step_at(T* shared, int step) { return shared + (STAGES == 1 ? 0 : step % 2) * 2 * KEYS * PITCH; }
    __device__ static T* queries_at(T* shared) { return shared + 2 * KEYS * PITCH; }
    __device__ static T* room_at(T* shared, int warp) {
        return shared + (2 * KEYS + ROWS) * PITCH + warp * 16 * pitch<T, KEYS>();
    }

    __device__ void operator()() const {
        SHARED(T, shared);
        const Work work(attention);
        const int head_dim = attention.head_dim, window = attention.window;
        const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
        // Keys visible to the block, and to its warp: `reach` is the last key visible to a row.
        const int last_row = min(work.first + ROWS, work.rows) - 1;
        const int begin = max(work.position(work.first) + work.offset - window + 1, 0);
        const int end = work.position(last_row) + work.offset + 1;
        const int warp_row = work.first + 16 * M * warp;
        const bool working = warp_row <= last_row;
        const int least_reach = work.position(warp_row) + work.offset;
        const int most_reach = work.position(min(warp_row + 16 * M - 1, last_row)) + work.offset;
        int reach[M][2];
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = warp_row + 16 * m + 8 * half + lane / 4;
                reach[m][half] = work.position(min(row, last_row)) + work.offset;
            }
        }

        const T* keys = k + work.key_row(0) * head_dim;
        const T* values = v + work.key_row(0) * head_dim;
        auto bring_step = [&](int key, int step) {
            T* to = step_at(shared, step);
            auto from = [=](const T* all) { return [=](int row) { return all + (size_t)(key + row) * head_dim; }; };
            bring<T, D, KEYS>(to, end - key, head_dim, from(keys));
            bring<T, D, KEYS>(to + KEYS * PITCH, end - key, head_dim, from(values));
        };
        const T* queries = q + work.query_row(work.first) * head_dim;
        bring<T, D, ROWS>(queries_at(shared), last_row + 1 - work.first, head_dim,
                          [=](int row) { return queries + (size_t)row * head_dim; });
        bring_step(begin, 0);
        copy_wait();
        __syncthreads();
        Queries rows[M];
#pragma unroll
        for (int m = 0; m < M; m++) {
            rows[m] = Queries::template load<PITCH>(queries_at(shared) + 16 * (M * warp + m) * PITCH);
        }

        float top[M][2], sum[M][2], result[M][D / 8][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
            top[m][0] = top[m][1] = -INFINITY;
            sum[m][0] = sum[m][1] = 0.0f;
#pragma unroll
            for (int i = 0; i < D / 2; i++) result[m][i / 4][i % 4] = 0.0f;
        }
#pragma unroll 1
        for (int key = begin, step = 0; key < end; key += KEYS, step++) {
            if (STAGES == 2) {
                copy_wait();
                __syncthreads(); // this step has arrived, and the previous one and the queries are no longer read
                if (key + KEYS < end) bring_step(key + KEYS, step + 1);
            } else if (step > 0) {
                __syncthreads();
                bring_step(key, step);
                copy_wait();
                __syncthreads();
            }
            if (!working || key > most_reach || key + KEYS <= least_reach - window + 1) continue;
            const T* to = step_at(shared, step);
            float scores[M][KEYS / 8][4] = {};
            Mma<T>::template add_transposed<PITCH, D>(scores, rows, to);
            const int column = key + 2 * (lane % 4);
            if (key + KEYS - 1 > least_reach) {
#pragma unroll
                for (int m = 0; m < M; m++) {
#pragma unroll
                    for (int i = 0; i < KEYS / 2; i++) {
                        if (i / 4 * 8 + i % 2 > reach[m][i / 2 % 2] - column) scores[m][i / 4][i % 4] = -INFINITY;
                    }
                }
            }
            if (key <= most_reach - window) {
#pragma unroll
                for (int m = 0; m < M; m++) {
#pragma unroll
                    for (int i = 0; i < KEYS / 2; i++) {
                        if (i / 4 * 8 + i % 2 <= reach[m][i / 2 % 2] - window - column) scores[m][i / 4][i % 4] = -INFINITY;
                    }
                }
            }
            accumulate(scores, top, sum, result);
            if (attention.dropout.rate > 0.0f) {
#pragma unroll
                for (int m = 0; m < M; m++) {
                    uint32_t kept = work.template kept<KEYS / 2, false>(warp_row + 16 * m, key);
                    drop(scores[m], kept, attention.dropout.rate);
                }
            }
            Probabilities probabilities[M];
#pragma unroll
            for (int m = 0; m < M; m++) probabilities[m] = Probabilities::round(scores[m], room_at(shared, warp));
            Mma<T>::template add<PITCH, KEYS>(result, probabilities, to + KEYS * PITCH);
        }

        __syncthreads(); // shared memory is no longer read
        if (!working) return;
#pragma unroll
        for (int m = 0; m < M; m++) {
            float factors[2];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float total = sum[m][half];
                total += __shfl_xor_sync(ALL_LANES, total, 1);
                total += __shfl_xor_sync(ALL_LANES, total, 2);
                int row = warp_row + 16 * m + 8 * half + lane / 4;
                if (row <= last_row && lane % 4 == 0) lse[work.query_row(row)] = top[m][half] + logf(total);
                factors[half] = 1.0f / total;
            }
            const int row = warp_row + 16 * m;
            write_rows<T, D>(result[m], factors, shared + 16 * warp * PITCH, last_row + 1 - row, head_dim,
                             [&](int i) { return out + work.joined(row + i); });
        }
    }

    // Turns scores into unnormalized probabilities relative to the running maximum of their row, and updates the row's sum.
    __device__ static void accumulate(float (&scores)[M][KEYS / 8][4], float (&top)[M][2], float (&sum)[M][2],
                                      float (&result)[M][D / 8][4]) {
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float most = top[m][half];
#pragma unroll
                for (int tile = 0; tile < KEYS / 8; tile++) {
                    most = fmaxf(most, fmaxf(scores[m][tile][2 * half], scores[m][tile][2 * half + 1]));
                }
                most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
                most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
                float from = most == -INFINITY ? 0.0f : most; // a row may see none of the first keys
                float shrink = exp2_fast((top[m][half] - from) * LOG2E), scaled = Exponential<T>::scaled(from);
                top[m][half] = most;
                float total = sum[m][half] * shrink;
#pragma unroll
                for (int tile = 0; tile < KEYS / 8; tile++) {
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; i++) {
                        float p = Exponential<T>::of(scores[m][tile][i], scaled);
                        scores[m][tile][i] = p;
                        total += p;
                    }
                }
                sum[m][half] = total;
#pragma unroll
                for (int tile = 0; tile < D / 8; tile++) {
                    result[m][tile][2 * half] *= shrink;
                    result[m][tile][2 * half + 1] *= shrink;
                }
            }
        }
    }
};

template <class T> using AttentionForward16 = AttentionForward<T, 16>;
template <class T> using AttentionForward32 = AttentionForward<T, 32>;
template <class T> using AttentionForward64 = AttentionForward<T, 64>;
template <class T> using AttentionForward96 = AttentionForward<T, 96>;
template <class T> using AttentionForward128 = AttentionForward<T, 128>;
EXPORT(AttentionForward16, attention_forward_16, ATTENTION_THREADS)
EXPORT(AttentionForward32, attention_forward_32, ATTENTION_THREADS)
EXPORT(AttentionForward64, attention_forward_64, ATTENTION_THREADS)
EXPORT(AttentionForward96, attention_forward_96, ATTENTION_THREADS)
EXPORT(AttentionForward128, attention_forward_128, ATTENTION_THREADS)
