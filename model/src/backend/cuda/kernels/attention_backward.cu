// The gradients of attention_forward.cu. Probabilities are recomputed from the log-sum-exp of each row; with ds = p (dp -
// delta), where delta is the inner product of a row of `out` and its gradient (FlashAttention-2, Dao 2023, algorithm 2):
//
//   dv = p^T dout,   dp = dout v^T,   dk = ds^T q,   dq = ds k.
//
// One kernel processes tiles of keys against the queries that see them, for dk and dv; another processes tiles of
// queries against the keys that they see, for dq. Each sum belongs to one block and has a fixed order, at the price of
// computing the scores twice.
#include "attention.cuh"

// The inner product of each row of `out` and its gradient.
template <class T> struct AttentionDelta {
    const T* out;  // (n, kv_heads repeats head_dim)
    const T* dout; // the same
    float* delta;  // (kv_heads, n, repeats)
    int n, kv_heads, repeats, head_dim;

    static constexpr int LANES = 8; // threads per row

    __device__ void operator()() const {
        int heads = kv_heads * repeats, lane = threadIdx.x % LANES;
        long long row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / LANES; // of (n, heads)
        bool there = row < (long long)n * heads;
        const T *a = out + row * head_dim, *b = dout + row * head_dim;
        float sum = 0.0f;
        constexpr int WIDE = wide<T>();
        if (!there) {
        } else if (head_dim % WIDE == 0) {
            for (int i = lane * WIDE; i < head_dim; i += LANES * WIDE) {
                Pack<T, WIDE> x = load<T, WIDE>(a + i), y = load<T, WIDE>(b + i);
#pragma unroll
                for (int j = 0; j < WIDE; j++) sum += to_float(x.at[j]) * to_float(y.at[j]);
            }
        } else {
            for (int i = lane; i < head_dim; i += LANES) sum += to_float(a[i]) * to_float(b[i]);
        }
        for (int step = LANES / 2; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
        if (there && lane == 0) {
            long long position = row / heads;
            int head = row - position * heads, repeat = head % repeats;
            delta[((size_t)(head / repeats) * n + position) * repeats + repeat] = sum;
        }
    }
};

template <class T, int D> struct KeyTile {
    static constexpr bool NARROW = sizeof(T) == 2, KEPT = NARROW && D <= 32; // keys and values in registers
    static constexpr int M = NARROW && D <= 64 ? 2 : 1;                      // tiles of 16 keys per warp
    static constexpr int KEYS = ATTENTION_WARPS * 16 * M;                    // per block
    static constexpr int ROWS = NARROW ? D <= 64 ? 64 : 32 : D <= 64 ? 32 : 16; // per step
    static constexpr int PART = ROWS < 32 ? ROWS : 32;                       // rows processed at a time
    static constexpr int STAGES = NARROW ? 2 : 1;
    // Rows of shared memory: the steps, and the keys and values that stay there or are loaded through it.
    static constexpr int STEPS = STAGES * 2 * ROWS;
    static constexpr int ALL = KEPT ? (STEPS > 2 * ROWS + 2 * KEYS ? STEPS : 2 * ROWS + 2 * KEYS) : STEPS + 2 * KEYS;
};

template <class T, int D> struct AttentionKeys {
    const T *q, *k, *v;        // as in the forward pass
    const T* dout;             // (n, kv_heads repeats head_dim)
    const float *lse, *delta;  // (kv_heads, n, repeats)
    T *dk, *dv;                // (kv_heads, n_keys, head_dim)
    Attention attention;

    typedef KeyTile<T, D> Size;
    static constexpr int M = Size::M, KEYS = Size::KEYS, ROWS = Size::ROWS, PART = Size::PART, STAGES = Size::STAGES;
    static constexpr int PITCH = pitch<T, D>();
    typedef typename Mma<T>::template Registers<D> Registers;
    typedef std::conditional_t<Size::KEPT, Registers, typename Mma<T>::template Shared<D, PITCH>> Kept;
    typedef typename Mma<T>::template Registers<PART> Factor;

    // Layout of shared memory: the first step; the second one, which may overlap keys and values if these are only loaded
    // through it; keys and values; log-sum-exp and delta of each row, for two steps; the scratch areas of the warps.
    __device__ static T* step_at(T* shared, int step) { return shared + (STAGES == 1 ? 0 : step % 2) * 2 * ROWS * PITCH; }
    __device__ static T* keys_at(T* shared) { return shared + (Size::KEPT ? 2 * ROWS : Size::STEPS) * PITCH; }
    __device__ static float2* rows_at(T* shared, int step) {
        return reinterpret_cast<float2*>(shared + Size::ALL * PITCH) + step % STAGES * ROWS;
    }
    __device__ static T* room_at(T* shared, int warp) {
        return reinterpret_cast<T*>(rows_at(shared, 0) + STAGES * ROWS) + warp * 16 * pitch<T, PART>();
    }

    __device__ void operator()() const {
        SHARED(T, shared);
        const Work work(attention);
        const int head_dim = attention.head_dim, repeats = attention.repeats;
        const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
        const int count = min(KEYS, work.document.k_len - work.first);
        // A key is visible to the rows from `since` up to, but not including, `until`.
        auto since = [&](int key) { return max(key - work.offset, 0) * repeats; };
        auto until = [&](int key) {
            return min(max(key - work.offset + attention.window, 0), work.document.q_len) * repeats;
        };
        const int begin = since(work.first), end = until(work.first + count - 1);
        const int warp_key = work.first + 16 * M * warp;
        const int first_since = since(warp_key), last_since = since(warp_key + 16 * M - 1);
        const int first_until = until(warp_key), last_until = until(warp_key + 16 * M - 1);

        auto bring_step = [&](int row, int step) {
            T* to = step_at(shared, step);
            const T* queries = q + work.query_row(row) * head_dim;
            bring<T, D, ROWS>(to, end - row, head_dim, [=](int i) { return queries + (size_t)i * head_dim; });
            bring<T, D, ROWS>(to + ROWS * PITCH, end - row, head_dim, [&](int i) { return dout + work.joined(row + i); });
            if (threadIdx.x < ROWS) {
                float2 of_row = {INFINITY, 0.0f}; // exp(x - inf) = 0 for missing rows
                int i = row + (int)threadIdx.x;
                if (i < end) of_row = {Exponential<T>::scaled(lse[work.query_row(i)]), delta[work.query_row(i)]};
                rows_at(shared, step)[threadIdx.x] = of_row;
            }
        };
        auto from = [&](const T* all) {
            return [=](int key) { return all + (work.key_row(work.first) + key) * head_dim; };
        };
        bring<T, D, KEYS>(keys_at(shared), count, head_dim, from(k));
        bring<T, D, KEYS>(keys_at(shared) + KEYS * PITCH, count, head_dim, from(v));
        if (begin < end) bring_step(begin, 0);
        copy_wait();
        __syncthreads();
        Kept kept_keys[M], kept_values[M];
#pragma unroll
        for (int m = 0; m < M; m++) {
            kept_keys[m] = Kept::template load<PITCH>(keys_at(shared) + 16 * (M * warp + m) * PITCH);
            kept_values[m] = Kept::template load<PITCH>(keys_at(shared) + (KEYS + 16 * (M * warp + m)) * PITCH);
        }

        float sum_k[M][D / 8][4] = {}, sum_v[M][D / 8][4] = {};
#pragma unroll 1
        for (int row = begin, step = 0; row < end; row += ROWS, step++) {
            if (STAGES == 2) {
                copy_wait();
                __syncthreads(); // this step has arrived, and the previous one and keys and values are no longer read
                if (row + ROWS < end) bring_step(row + ROWS, step + 1);
            } else if (step > 0) {
                __syncthreads();
                bring_step(row, step);
                copy_wait();
                __syncthreads();
            }
#pragma unroll 1
            for (int part = 0; part < ROWS; part += PART) {
                const int at = row + part;
                if (at + PART <= first_since || at >= last_until) continue;
                const T* queries = step_at(shared, step) + part * PITCH;
                const T* gradients = queries + ROWS * PITCH;
                const float2* of_rows = rows_at(shared, step) + part + 2 * (lane % 4);
                float p[M][PART / 8][4] = {}, dp[M][PART / 8][4] = {};
                Mma<T>::template add_transposed<PITCH, D>(p, kept_keys, queries);
                Mma<T>::template add_transposed<PITCH, D>(dp, kept_values, gradients);
#pragma unroll
                for (int i = 0; i < PART / 2; i++) {
                    const float from = of_rows[i / 4 * 8 + i % 2].x;
#pragma unroll
                    for (int m = 0; m < M; m++) p[m][i / 4][i % 4] = Exponential<T>::of(p[m][i / 4][i % 4], from);
                }
                if (at < last_since || at + PART > first_until) {
                    const int first_row = at + 2 * (lane % 4);
#pragma unroll
                    for (int m = 0; m < M; m++) {
#pragma unroll
                        for (int half = 0; half < 2; half++) {
                            const int key = warp_key + 16 * m + 8 * half + lane / 4;
                            const int low = since(key) - first_row, high = until(key) - first_row;
#pragma unroll
                            for (int i = 0; i < PART / 4; i++) {
                                int row = i / 2 * 8 + i % 2;
                                if (row < low || row >= high) p[m][i / 2][2 * half + i % 2] = 0.0f;
                            }
                        }
                    }
                }
                Factor factor[M];
                if (attention.dropout.rate > 0.0f) {
#pragma unroll
                    for (int m = 0; m < M; m++) {
                        const uint32_t kept = work.template kept<PART / 2, true>(warp_key + 16 * m, at);
                        float dropped[PART / 8][4];
#pragma unroll
                        for (int i = 0; i < PART / 2; i++) dropped[i / 4][i % 4] = p[m][i / 4][i % 4];
                        drop(dropped, kept, attention.dropout.rate);
                        drop(dp[m], kept, attention.dropout.rate);
                        factor[m] = Factor::round(dropped, room_at(shared, warp));
                    }
                } else {
#pragma unroll
                    for (int m = 0; m < M; m++) factor[m] = Factor::round(p[m], room_at(shared, warp));
                }
                Mma<T>::template add<PITCH, PART>(sum_v, factor, gradients);
#pragma unroll
                for (int i = 0; i < PART / 2; i++) {
                    const float delta = of_rows[i / 4 * 8 + i % 2].y;
#pragma unroll
                    for (int m = 0; m < M; m++) p[m][i / 4][i % 4] *= dp[m][i / 4][i % 4] - delta;
                }
#pragma unroll
                for (int m = 0; m < M; m++) factor[m] = Factor::round(p[m], room_at(shared, warp));
                Mma<T>::template add<PITCH, PART>(sum_k, factor, queries);
            }
        }
        __syncthreads(); // shared memory is no longer read
        const float ones[2] = {1.0f, 1.0f};
        auto write = [&](const float (&sums)[M][D / 8][4], T* all) {
#pragma unroll
            for (int m = 0; m < M; m++) {
                const int key = 16 * (M * warp + m);
                T* to = all + work.key_row(work.first + key) * head_dim;
                write_rows<T, D>(sums[m], ones, shared + 16 * warp * PITCH, count - key, head_dim,
                                 [=](int i) { return to + (size_t)i * head_dim; });
            }
        };
        write(sum_k, dk);
        write(sum_v, dv);
    }
};

template <class T, int D> struct AttentionQueries {
    const T *q, *k, *v;       // as in the forward pass
    const T* dout;            // (n, kv_heads repeats head_dim)
    const float *lse, *delta; // (kv_heads, n, repeats)
    T* dq;                    // (kv_heads, n, repeats, head_dim)
    Attention attention;

    typedef QueryTile<T, D> Size;
    static constexpr int M = Size::M, ROWS = Size::ROWS, KEYS = Size::KEYS, STAGES = Size::STAGES, PITCH = pitch<T, D>();
    static constexpr int PART = KEYS < 32 ? KEYS : 32; // keys processed at a time
    typedef typename Mma<T>::template Registers<D> Registers;
    // If two tiles per warp exceed its registers, gradients stay in shared memory, after both steps.
    typedef std::conditional_t<M == 1, Registers, typename Mma<T>::template Shared<D, PITCH>> Gradients;
    typedef typename Mma<T>::template Registers<PART> Factor;
    static_assert(M == 1 || STAGES == 1 || ROWS >= 2 * KEYS, "gradients must not lie where the second step goes");
    // Rows of shared memory.
    static constexpr int ALL = 2 * KEYS + (STAGES == 2 && 2 * KEYS > 2 * ROWS ? 2 * KEYS : 2 * ROWS);

    // Layout of shared memory: the first step; then queries and gradients, which the second step overwrites once they
    // are in registers; then the scratch areas of the warps.
    __device__ static T* step_at(T* shared, int step) { return shared + (STAGES == 1 ? 0 : step % 2) * 2 * KEYS * PITCH; }
    __device__ static T* queries_at(T* shared) { return shared + 2 * KEYS * PITCH; }
    __device__ static T* room_at(T* shared, int warp) { return shared + ALL * PITCH + warp * 16 * pitch<T, PART>(); }

    __device__ void operator()() const {
        SHARED(T, shared);
        const Work work(attention);
        const int head_dim = attention.head_dim, window = attention.window;
        const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
        const int last_row = min(work.first + ROWS, work.rows) - 1;
        const int begin = max(work.position(work.first) + work.offset - window + 1, 0);
        const int end = work.position(last_row) + work.offset + 1;
        const int warp_row = work.first + 16 * M * warp;
        const bool working = warp_row <= last_row;
        const int least_reach = work.position(warp_row) + work.offset;
        const int most_reach = work.position(min(warp_row + 16 * M - 1, last_row)) + work.offset;
        int reach[M][2];
        float2 of_row[M][2];
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = min(warp_row + 16 * m + 8 * half + lane / 4, last_row);
                reach[m][half] = work.position(row) + work.offset;
                size_t at = work.query_row(row);
                of_row[m][half] = {Exponential<T>::scaled(lse[at]), delta[at]};
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
        T* const at = queries_at(shared);
        bring<T, D, ROWS>(at, last_row + 1 - work.first, head_dim,
                          [=](int row) { return queries + (size_t)row * head_dim; });
        bring<T, D, ROWS>(at + ROWS * PITCH, last_row + 1 - work.first, head_dim,
                          [&](int row) { return dout + work.joined(work.first + row); });
        bring_step(begin, 0);
        copy_wait();
        __syncthreads();
        Registers row_queries[M];
        Gradients row_gradients[M];
#pragma unroll
        for (int m = 0; m < M; m++) {
            row_queries[m] = Registers::template load<PITCH>(at + 16 * (M * warp + m) * PITCH);
            row_gradients[m] = Gradients::template load<PITCH>(at + (ROWS + 16 * (M * warp + m)) * PITCH);
        }

        float sum[M][D / 8][4] = {};
#pragma unroll 1
        for (int key = begin, step = 0; key < end; key += KEYS, step++) {
            if (STAGES == 2) {
                copy_wait();
                __syncthreads(); // this step has arrived, and the previous one and queries and gradients are no longer read
                if (key + KEYS < end) bring_step(key + KEYS, step + 1);
            } else if (step > 0) {
                __syncthreads();
                bring_step(key, step);
                copy_wait();
                __syncthreads();
            }
#pragma unroll 1
            for (int first = key; first < key + KEYS; first += PART) {
                if (!working || first > most_reach || first + PART <= least_reach - window + 1) continue;
                const T* to = step_at(shared, step) + (first - key) * PITCH;
                float p[M][PART / 8][4] = {}, dp[M][PART / 8][4] = {};
                Mma<T>::template add_transposed<PITCH, D>(p, row_queries, to);
                Mma<T>::template add_transposed<PITCH, D>(dp, row_gradients, to + KEYS * PITCH);
                if (attention.dropout.rate > 0.0f) {
#pragma unroll
                    for (int m = 0; m < M; m++) {
                        uint32_t kept = work.template kept<PART / 2, false>(warp_row + 16 * m, first);
                        drop(dp[m], kept, attention.dropout.rate);
                    }
                }
                Factor factor[M];
#pragma unroll
                for (int m = 0; m < M; m++) {
#pragma unroll
                    for (int i = 0; i < PART / 2; i++) {
                        const int half = i / 2 % 2;
                        float ds = Exponential<T>::of(p[m][i / 4][i % 4], of_row[m][half].x);
                        p[m][i / 4][i % 4] = ds * (dp[m][i / 4][i % 4] - of_row[m][half].y);
                    }
                }
                const int column = first + 2 * (lane % 4);
                if (first + PART - 1 > least_reach) {
#pragma unroll
                    for (int m = 0; m < M; m++) {
#pragma unroll
                        for (int i = 0; i < PART / 2; i++) {
                            if (i / 4 * 8 + i % 2 > reach[m][i / 2 % 2] - column) p[m][i / 4][i % 4] = 0.0f;
                        }
                    }
                }
                if (first <= most_reach - window) {
#pragma unroll
                    for (int m = 0; m < M; m++) {
#pragma unroll
                        for (int i = 0; i < PART / 2; i++) {
                            if (i / 4 * 8 + i % 2 <= reach[m][i / 2 % 2] - window - column) p[m][i / 4][i % 4] = 0.0f;
                        }
                    }
                }
#pragma unroll
                for (int m = 0; m < M; m++) factor[m] = Factor::round(p[m], room_at(shared, warp));
                Mma<T>::template add<PITCH, PART>(sum, factor, to);
            }
        }
        __syncthreads(); // shared memory is no longer read
        if (!working) return;
        const float ones[2] = {1.0f, 1.0f};
#pragma unroll
        for (int m = 0; m < M; m++) {
            const int row = warp_row + 16 * m;
            T* to = dq + work.query_row(row) * head_dim;
            write_rows<T, D>(sum[m], ones, shared + 16 * warp * PITCH, last_row + 1 - row, head_dim,
                             [=](int i) { return to + (size_t)i * head_dim; });
        }
    }
};

EXPORT(AttentionDelta, attention_delta, 256)

#define EXPORT_SIZE(D)                                                        \
    template <class T> using AttentionKeys##D = AttentionKeys<T, D>;          \
    template <class T> using AttentionQueries##D = AttentionQueries<T, D>;    \
    EXPORT(AttentionKeys##D, attention_keys_##D, ATTENTION_THREADS)           \
    EXPORT(AttentionQueries##D, attention_queries_##D, ATTENTION_THREADS)
EXPORT_SIZE(16)
EXPORT_SIZE(32)
EXPORT_SIZE(64)
EXPORT_SIZE(96)
EXPORT_SIZE(128)
