// silu(gate) up (Shazeer 2020, eq. 6); each row holds the gate first.
#include "common.cuh"

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class T> struct SwiGlu {
    T* y;       // (n, hidden)
    const T* x; // (n, 2 hidden)
    int n, hidden;

    template <int N> __device__ void run() const {
        int packs = hidden / N;
        for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < (long long)n * packs;
             at += (long long)gridDim.x * blockDim.x) {
            long long row = at / packs;
            int column = at % packs * N;
            const T* gate = x + row * 2 * hidden + column;
            Pack<T, N> g = load<T, N>(gate), u = load<T, N>(gate + hidden);
            for (int j = 0; j < N; j++) {
                float of_gate = to_float(g.at[j]);
                u.at[j] = from_float<T>(of_gate * sigmoid(of_gate) * to_float(u.at[j]));
            }
            store(y + row * hidden + column, u);
        }
    }

    __device__ void operator()() const {
        if (hidden % wide<T>() == 0) run<wide<T>()>();
        else run<1>();
    }
};
EXPORT(SwiGlu, swiglu, 256)

// In place, one warp per row: `y` is the gradient of the weighted result on entry and that result on return; `x`
// becomes its own gradient.
template <class T> struct SwiGluBackward {
    T* y;                 // (n, hidden)
    T* x;                 // (n, 2 hidden)
    float* dweights;      // (n,)
    const float* weights; // (n,); null means 1 for every row
    int n, hidden;

    template <int N> __device__ void run() const {
        int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
        if (row >= n) return;
        T *dy = y + (long long)row * hidden, *gate = x + (long long)row * 2 * hidden, *up = gate + hidden;
        float weight = weights ? weights[row] : 1.0f, inner = 0.0f;
        for (int i = lane * N; i < hidden; i += WARP * N) {
            Pack<T, N> d = load<T, N>(dy + i), g = load<T, N>(gate + i), u = load<T, N>(up + i);
            for (int j = 0; j < N; j++) {
                float grad = to_float(d.at[j]), of_gate = to_float(g.at[j]), of_up = to_float(u.at[j]);
                float s = sigmoid(of_gate), silu = of_gate * s, result = silu * of_up;
                inner += grad * result;
                d.at[j] = from_float<T>(result * weight);
                g.at[j] = from_float<T>(weight * grad * of_up * (s + silu * (1.0f - s)));
                u.at[j] = from_float<T>(weight * grad * silu);
            }
            store(dy + i, d);
            store(gate + i, g);
            store(up + i, u);
        }
        inner = warp_sum(inner);
        if (lane == 0) dweights[row] = inner;
    }

    __device__ void operator()() const {
        if (hidden % wide<T>() == 0) run<wide<T>()>();
        else run<1>();
    }
};
EXPORT(SwiGluBackward, swiglu_backward, 256)
