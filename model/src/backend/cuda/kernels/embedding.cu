// The gradient of the token embedding; its forward pass is `gather`.
#include "common.cuh"

// Adds the gradients of all positions of a token to its row, always in the same order. One block per token, with
// blockDim.x / lanes groups of `lanes` threads; each group sums every so-manyth position.
template <class T> struct EmbedBackward {
    float* grads;            // (vocab, width)
    const T* dx;             // (n, width)
    const unsigned* tokens;  // the distinct tokens
    const unsigned* starts;  // start of each token's positions in `sorted`, and the end
    const unsigned* sorted;  // positions, grouped by token
    int width, lanes;

    template <int N> __device__ void run() const {
        SHARED(float, room); // (blockDim.x, N)
        int token = blockIdx.x, first = starts[token], end = starts[token + 1];
        int lane = threadIdx.x % lanes, row = threadIdx.x / lanes, rows = blockDim.x / lanes;
        for (int begin = 0; begin < width; begin += lanes * N) {
            int column = begin + lane * N;
            float sum[N] = {};
            if (column < width) {
                for (int i = first + row; i < end; i += rows) {
                    Pack<T, N> pack = load<T, N>(dx + (long long)sorted[i] * width + column);
                    for (int j = 0; j < N; j++) sum[j] += to_float(pack.at[j]);
                }
            }
            for (int j = 0; j < N; j++) room[threadIdx.x * N + j] = sum[j];
            __syncthreads();
            if (row == 0 && column < width) {
                int used = min(rows, end - first);
                for (int i = 1; i < used; i++)
                    for (int j = 0; j < N; j++) sum[j] += room[(i * lanes + lane) * N + j];
                float* to = grads + (long long)tokens[token] * width + column;
                for (int j = 0; j < N; j++) to[j] += sum[j];
            }
            __syncthreads();
        }
    }

    __device__ void operator()() const {
        if (width % wide<T>() == 0) run<wide<T>()>();
        else run<1>();
    }
};
EXPORT(EmbedBackward, embed_backward, 256)
