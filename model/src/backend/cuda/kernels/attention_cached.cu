// Attention of documents with one query each, as in generation, reading keys and values in place: in pieces of caches,
// each the first positions of one cache after those of another.
//
// A block processes one query head of a document. Its warps alternate over groups of 32 keys: each lane scores one key,
// then the lanes sum the values, each for its own columns, with a running maximum and sum (Milakov & Gimelshein 2018,
// "Online normalizer calculation for softmax"). The results of the warps are combined in their order.
#include "common.cuh"

template <class T> struct AttentionCached {
    // Positions of a document that are in one cache.
    struct Span {
        const T* k; // (n_kv_heads, .., head_dim)
        const T* v;
        long long stride; // between heads
        int first, end;   // range of the document's positions
    };

    T* out;            // (n, n_kv_heads repeats head_dim)
    const T* q;        // (n_kv_heads, n, repeats, head_dim), scaled
    const Span* spans; // grouped by document
    const int* starts; // (documents + 1,), first span of each document
    const int* rows;   // (documents,), row of each document's query
    int n, repeats, head_dim;
    int window; // at most 2^30, which means no window

    static constexpr int WARPS = 8, COLUMNS = 4;

    __device__ void operator()() const {
        SHARED(float, query);
        const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
        float* weights = query + head_dim + warp * WARP;
        float* found = query + head_dim + WARPS * WARP; // per warp: columns, maximum, sum
        const int document = blockIdx.x, head = blockIdx.y, kv_head = head / repeats;
        const int row = rows[document];
        const T* own = q + (((long long)kv_head * n + row) * repeats + head % repeats) * head_dim;
        for (int d = threadIdx.x; d < head_dim; d += blockDim.x) query[d] = to_float(own[d]);
        __syncthreads();

        float highest = -INFINITY, sum = 0.0f, columns[COLUMNS] = {};
        const int seen_from = max(0, spans[starts[document + 1] - 1].end - window);
        for (int i = starts[document]; i < starts[document + 1]; i++) {
            const Span span = spans[i];
            const T* keys = span.k + kv_head * span.stride;
            const T* values = span.v + kv_head * span.stride;
            for (int first = max(span.first, seen_from) + warp * WARP; first < span.end; first += WARPS * WARP) {
                const int count = min(WARP, span.end - first);
                const long long at = (long long)(first - span.first) * head_dim;
                const float score = lane < count ? dot(query, keys + at + lane * head_dim) : -INFINITY;
                const float top = fmaxf(highest, warp_max(score));
                const float weight = expf(score - top), shrink = expf(highest - top);
                sum = sum * shrink + warp_sum(weight);
                highest = top;
                weights[lane] = weight;
                __syncwarp();
                for (int c = 0; c < COLUMNS; c++) {
                    const int d = lane + c * WARP;
                    if (d >= head_dim) break;
                    float x = columns[c] * shrink;
                    for (int j = 0; j < count; j++) x += weights[j] * to_float(values[at + j * head_dim + d]);
                    columns[c] = x;
                }
                __syncwarp(); // before weights are overwritten
            }
        }
        float* mine = found + warp * (head_dim + 2);
        for (int c = 0; c < COLUMNS; c++) {
            const int d = lane + c * WARP;
            if (d < head_dim) mine[d] = columns[c];
        }
        if (lane == 0) {
            mine[head_dim] = highest;
            mine[head_dim + 1] = sum;
        }
        __syncthreads();
        float top = -INFINITY;
        for (int w = 0; w < WARPS; w++) top = fmaxf(top, found[w * (head_dim + 2) + head_dim]);
        T* to = out + ((long long)row * gridDim.y + head) * head_dim;
        for (int d = threadIdx.x; d < head_dim; d += blockDim.x) {
            float x = 0.0f, all = 0.0f;
            for (int w = 0; w < WARPS; w++) {
                const float* of = found + w * (head_dim + 2);
                const float factor = expf(of[head_dim] - top); // 0 for a warp without keys
                x += factor * of[d];
                all += factor * of[head_dim + 1];
            }
            to[d] = from_float<T>(x / all);
        }
    }

    // Inner product, 16 bytes at a time if rows are aligned.
    __device__ float dot(const float* query, const T* key) const {
        constexpr int N = wide<T>();
        float sum = 0.0f;
        if (head_dim % N == 0) {
            for (int d = 0; d < head_dim; d += N) {
                const Pack<T, N> pack = load<T, N>(key + d);
                for (int i = 0; i < N; i++) sum += query[d + i] * to_float(pack.at[i]);
            }
            return sum;
        }
        for (int d = 0; d < head_dim; d++) sum += query[d] * to_float(key[d]);
        return sum;
    }
};
EXPORT(AttentionCached, attention_cached, 256)
