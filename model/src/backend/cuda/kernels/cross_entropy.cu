// Softmax and cross-entropy over f32 logits, one block per row.
#include "common.cuh"

template <class T> struct CrossEntropy {
    float* nll;              // -log softmax(logits)[target], (n,)
    T* dlogits;              // the gradient of the sum of weights * nll, (n, vocab); null if it is not needed
    const float* logits;     // (n, vocab)
    const unsigned* targets; // (n,)
    const float* weights;    // (n,); null if the gradient is not needed
    int vocab;

    template <int N> __device__ void run() const {
        SHARED(float, room);
        const float* row = logits + (long long)blockIdx.x * vocab;
        float top = -INFINITY, sum = 0.0f; // over the elements that this thread has read
        for (int i = threadIdx.x * N; i < vocab; i += blockDim.x * N) {
            Pack<float, N> pack = load<float, N>(row + i);
            float most = pack.at[0];
            for (int j = 1; j < N; j++) most = fmaxf(most, pack.at[j]);
            if (most > top) {
                sum *= expf(top - most);
                top = most;
            }
            for (int j = 0; j < N; j++) sum += expf(pack.at[j] - top);
        }
        float max = block_max(top, room);
        // A thread without elements has top = -inf and sum = 0; NaN must stay NaN.
        sum = block_sum(sum == 0.0f ? 0.0f : sum * expf(top - max), room);
        unsigned target = targets[blockIdx.x];
        if (threadIdx.x == 0) nll[blockIdx.x] = logf(sum) + max - row[target];
        if (!dlogits) return;
        float weight = weights[blockIdx.x], share = 1.0f / sum;
        T* out = dlogits + (long long)blockIdx.x * vocab;
        for (int i = threadIdx.x * N; i < vocab; i += blockDim.x * N) {
            Pack<float, N> pack = load<float, N>(row + i);
            Pack<T, N> grad;
            for (int j = 0; j < N; j++) {
                float p = expf(pack.at[j] - max) * share;
                grad.at[j] = from_float<T>(weight * (i + j == (int)target ? p - 1.0f : p));
            }
            store(out + i, grad);
        }
    }

    __device__ void operator()() const {
        if (vocab % 4 == 0) run<4>();
        else run<1>();
    }
};
EXPORT(CrossEntropy, cross_entropy, 256)
