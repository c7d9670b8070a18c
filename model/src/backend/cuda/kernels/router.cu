// The router of a mixture of experts: scores, the best experts of each token, rows grouped by expert, balancing.
//
// Rows are ordered by a counting sort, always in the same order: each block of tokens counts its choices, one block
// computes the prefix sums, and each block then assigns rows to its choices.
#include "common.cuh"

constexpr int TOKENS = 256; // per block
constexpr float TINY = 1e-20f; // keeps a sum of scores from being zero, as in MiniMind

// Softmax over experts and selection of the best top_k; equal scores prefer the lower index. One thread per token.
template <class T> struct Route {
    float* scores;     // (n, experts)
    unsigned* chosen;  // (n, top_k), best first
    float* weights;    // (n, top_k), normalized to sum to one if top_k > 1
    const T* logits;   // (n, experts)
    int n, experts, top_k;

    __device__ void operator()() const {
        int token = blockIdx.x * blockDim.x + threadIdx.x;
        if (token >= n) return;
        const T* row = logits + (long long)token * experts;
        float* score = scores + (long long)token * experts;
        float max = -INFINITY, sum = 0.0f;
        for (int e = 0; e < experts; e++) max = fmaxf(max, to_float(row[e]));
        for (int e = 0; e < experts; e++) {
            score[e] = expf(to_float(row[e]) - max);
            sum += score[e];
        }
        for (int e = 0; e < experts; e++) score[e] *= 1.0f / sum;
        unsigned* mine = chosen + (long long)token * top_k;
        float total = 0.0f;
        for (int slot = 0; slot < top_k; slot++) {
            int best = -1;
            for (int e = 0; e < experts; e++) {
                bool free = true;
                for (int before = 0; before < slot; before++) free &= mine[before] != (unsigned)e;
                if (free && (best < 0 || score[e] > score[best])) best = e;
            }
            mine[slot] = best;
            total += score[best];
        }
        if (top_k > 1) total += TINY;
        else total = 1.0f;
        for (int slot = 0; slot < top_k; slot++)
            weights[(long long)token * top_k + slot] = score[mine[slot]] / total;
    }
};
EXPORT(Route, route, 256)

// Counts how often each block of tokens chose each expert: (experts, blocks).
struct CountRows {
    int* counts;
    const unsigned* chosen;
    int n, experts, top_k;

    __device__ void operator()() const {
        SHARED(int, count); // (experts,)
        for (int e = threadIdx.x; e < experts; e += blockDim.x) count[e] = 0;
        __syncthreads();
        int token = blockIdx.x * blockDim.x + threadIdx.x;
        if (token < n)
            for (int slot = 0; slot < top_k; slot++) atomicAdd(&count[chosen[(long long)token * top_k + slot]], 1);
        __syncthreads();
        for (int e = threadIdx.x; e < experts; e += blockDim.x) counts[(long long)e * gridDim.x + blockIdx.x] = count[e];
    }
};
EXPORT_ONE(CountRows, count_rows, TOKENS)

// Replaces counts by the first row of each expert and block; `offsets`: the first row of each expert, and the end. One block.
struct PlaceRows {
    int* counts;
    int* offsets; // (experts + 1,)
    int experts, blocks;

    __device__ void operator()() const {
        SHARED(int, sums); // (experts + 1,)
        for (int e = threadIdx.x; e < experts; e += blockDim.x) {
            int sum = 0;
            for (int b = 0; b < blocks; b++) sum += counts[(long long)e * blocks + b];
            sums[e + 1] = sum;
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            sums[0] = 0;
            for (int e = 0; e < experts; e++) sums[e + 1] += sums[e];
        }
        __syncthreads();
        for (int e = threadIdx.x; e <= experts; e += blockDim.x) offsets[e] = sums[e];
        for (int e = threadIdx.x; e < experts; e += blockDim.x) {
            int next = sums[e];
            for (int b = 0; b < blocks; b++) {
                int count = counts[(long long)e * blocks + b];
                counts[(long long)e * blocks + b] = next;
                next += count;
            }
        }
    }
};
EXPORT_ONE(PlaceRows, place_rows, 256)

// Identifies each row by its index among the choices, token times top_k plus slot; a warp scans the block's choices for
// every eighth expert.
struct OrderRows {
    unsigned* order;      // (n top_k,), choice of each row
    unsigned* row_of;     // (n top_k,), row of each choice
    float* row_weights;   // (n top_k,), weight of each row
    const int* firsts;    // (experts, blocks)
    const unsigned* chosen;
    const float* weights;
    int n, experts, top_k;

    __device__ void operator()() const {
        long long begin = (long long)blockIdx.x * TOKENS * top_k, all = (long long)n * top_k;
        long long end = begin + (long long)TOKENS * top_k < all ? begin + (long long)TOKENS * top_k : all;
        int lane = threadIdx.x % WARP;
        for (int e = threadIdx.x / WARP; e < experts; e += blockDim.x / WARP) {
            int next = firsts[(long long)e * gridDim.x + blockIdx.x];
            for (long long first = begin; first < end; first += WARP) {
                long long place = first + lane;
                bool is_mine = place < end && chosen[place] == (unsigned)e;
                unsigned mine = __ballot_sync(ALL_LANES, is_mine);
                if (is_mine) {
                    int row = next + __popc(mine & ((1u << lane) - 1u));
                    order[row] = place;
                    row_of[place] = row;
                    row_weights[row] = weights[place];
                }
                next += __popc(mine);
            }
        }
    }
};
EXPORT_ONE(OrderRows, order_rows, 256)

// For each span of tokens: how often each expert was chosen, its mean score, and the sum of the entropies of the scores
// in nats. One block per span.
struct RouteSpans {
    float* loads;   // (spans, experts)
    float* means;   // (spans, experts)
    float* entropy; // (spans,)
    const float* scores;
    const unsigned* chosen;
    const unsigned* spans; // (spans + 1,)
    int experts, top_k;

    __device__ void operator()() const {
        SHARED(float, room); // (32,), then (experts,) counts
        int* count = (int*)(room + WARP);
        int first = spans[blockIdx.x], end = spans[blockIdx.x + 1];
        for (int e = threadIdx.x; e < experts; e += blockDim.x) count[e] = 0;
        __syncthreads();
        for (long long i = (long long)first * top_k + threadIdx.x; i < (long long)end * top_k; i += blockDim.x)
            atomicAdd(&count[chosen[i]], 1);
        float sum = 0.0f;
        for (long long i = (long long)first * experts + threadIdx.x; i < (long long)end * experts; i += blockDim.x)
            if (scores[i] > 0.0f) sum -= scores[i] * logf(scores[i]);
        sum = block_sum(sum, room);
        if (threadIdx.x == 0) entropy[blockIdx.x] = sum;
        for (int e = 0; e < experts; e++) {
            float mean = 0.0f;
            for (int token = first + threadIdx.x; token < end; token += blockDim.x)
                mean += scores[(long long)token * experts + e];
            mean = block_sum(mean, room);
            if (threadIdx.x == 0) means[(long long)blockIdx.x * experts + e] = end > first ? mean / (end - first) : 0.0f;
        }
        __syncthreads();
        for (int e = threadIdx.x; e < experts; e += blockDim.x) loads[(long long)blockIdx.x * experts + e] = count[e];
    }
};
EXPORT_ONE(RouteSpans, route_spans, 256)

// The gradient of the logits, from those of the row weights and of the balancing loss. One thread per token.
template <class T> struct RouteBackward {
    T* dlogits;              // (n, experts)
    const float* dweights;   // (n top_k,), grouped by expert
    const float* scores;
    const unsigned* chosen;
    const float* weights;    // (n, top_k)
    const unsigned* row_of;
    const float* loads;      // choices per span, (spans, experts); null: no balancing loss
    const float* load;       // of a larger batch: each expert's share times their number, (experts,); null: of the span
    const unsigned* spans;   // (n_spans + 1,)
    int n, experts, top_k, n_spans;
    float balance; // weight of each span's balancing loss

    __device__ void operator()() const {
        SHARED(float, room); // (blockDim.x, experts): gradients of scores
        int token = blockIdx.x * blockDim.x + threadIdx.x;
        if (token >= n) return;
        float* grad = room + threadIdx.x * experts;
        const float* score = scores + (long long)token * experts;
        const unsigned* mine = chosen + (long long)token * top_k;
        const float* weight = weights + (long long)token * top_k;
        const unsigned* row = row_of + (long long)token * top_k;
        for (int e = 0; e < experts; e++) grad[e] = 0.0f;
        float total = 1.0f, mean = 0.0f;
        if (top_k > 1) {
            total = TINY;
            for (int slot = 0; slot < top_k; slot++) {
                total += score[mine[slot]];
                mean += dweights[row[slot]] * weight[slot];
            }
        }
        for (int slot = 0; slot < top_k; slot++) grad[mine[slot]] += (dweights[row[slot]] - mean) / total;
        if (loads) {
            int low = 0, high = n_spans - 1; // the last span that begins at or before the token
            while (low < high) {
                int middle = (low + high + 1) / 2;
                if (spans[middle] <= (unsigned)token) low = middle;
                else high = middle - 1;
            }
            int len = spans[low + 1] - spans[low];
            float share = (float)experts / ((float)len * top_k);
            for (int e = 0; e < experts; e++)
                grad[e] += balance / len * (load ? load[e] : loads[(long long)low * experts + e] * share);
        }
        float inner = 0.0f;
        for (int e = 0; e < experts; e++) inner += grad[e] * score[e];
        for (int e = 0; e < experts; e++)
            dlogits[(long long)token * experts + e] = from_float<T>(score[e] * (grad[e] - inner));
    }
};
EXPORT(RouteBackward, route_backward, 64)

// Adds the rows of each token to it, in the order of its choices, multiplied by their weights if there are any.
template <class T> struct Unpermute {
    T* y;                 // (n, width)
    const T* x;           // (n top_k, width)
    const unsigned* row_of;
    const float* weights; // (n, top_k); null means 1 for every row
    int n, width, top_k;

    template <int N> __device__ void run() const {
        int packs = width / N;
        for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < (long long)n * packs;
             at += (long long)gridDim.x * blockDim.x) {
            long long token = at / packs;
            int column = at % packs * N;
            Pack<T, N> to = load<T, N>(y + token * width + column);
            float sum[N];
            for (int j = 0; j < N; j++) sum[j] = to_float(to.at[j]);
            for (int slot = 0; slot < top_k; slot++) {
                long long place = token * top_k + slot;
                float weight = weights ? weights[place] : 1.0f;
                Pack<T, N> from = load<T, N>(x + (long long)row_of[place] * width + column);
                for (int j = 0; j < N; j++) sum[j] += weight * to_float(from.at[j]);
            }
            for (int j = 0; j < N; j++) to.at[j] = from_float<T>(sum[j]);
            store(y + token * width + column, to);
        }
    }

    __device__ void operator()() const {
        if (width % wide<T>() == 0) run<wide<T>()>();
        else run<1>();
    }
};
EXPORT(Unpermute, unpermute, 256)
