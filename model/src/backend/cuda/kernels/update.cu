// Optimizer updates. Values are f32; T is the type of the working copies of weights.
#include "common.cuh"

#define EACH(i, len)                                                                     \
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < (len); \
         i += (long long)gridDim.x * blockDim.x)

// Each block's partial sum of squares, in f64; blockIdx.y is the index of one of several consecutive arrays.
struct SumOfSquares {
    double* parts; // (arrays, blocks)
    const float* x; // (arrays, len)
    long long len;

    __device__ void operator()() const {
        SHARED(double, room); // (blockDim.x,)
        const float* x = this->x + blockIdx.y * len;
        double sum = 0.0;
        EACH(i, len) sum += (double)x[i] * x[i];
        room[threadIdx.x] = sum;
        for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
            __syncthreads();
            if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
        }
        if (threadIdx.x == 0) parts[(long long)blockIdx.y * gridDim.x + blockIdx.x] = room[0];
    }
};
EXPORT_ONE(SumOfSquares, sum_of_squares, 256)

// The norm of a gradient, and the factor by which the updates multiply the gradient.
struct GradScale {
    double norm; // before clipping, without the loss scale
    float factor; // NaN if the norm is not finite: then the updates change nothing
    int unused;

    __device__ bool is_finite() const { return !isnan(factor); }
};

// A part of a gradient, and its place in the norm.
struct NormPart {
    double weight; // the square of the part's multiplier
    int first, end; // its partial sums
};

// Computes the norm and the factor, in the order and precision of the CPU: see `Clipping`. Run with one block.
struct ScaleGradient {
    GradScale* scale;
    const double* sums; // partial sums of squares
    const NormPart* parts; // (n_parts,)
    double max_norm; // 0 disables clipping
    double eps, loss_scale;
    int n_parts, unused;

    __device__ void operator()() const {
        SHARED(double, squares); // (blockDim.x / WARP,): those of each warp's part
        int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
        double total = 0.0;
        for (int first = 0; first < n_parts; first += warps) {
            int count = min(warps, n_parts - first);
            if (warp < count) {
                NormPart part = parts[first + warp];
                double sum = 0.0;
                for (int i = part.first; i < part.end; i += WARP) {
                    double next = i + lane < part.end ? sums[i + lane] : 0.0;
                    for (int from = 0; from < WARP; from++) sum += __shfl_sync(ALL_LANES, next, from);
                }
                if (lane == 0) squares[warp] = part.weight * sum;
            }
            __syncthreads();
            if (threadIdx.x == 0) {
                for (int i = 0; i < count; i++) total += squares[i];
            }
            __syncthreads();
        }
        if (threadIdx.x == 0) {
            double norm = sqrt(total) / loss_scale;
            double clip = max_norm > 0.0 ? fmin(max_norm / (norm + eps), 1.0) : 1.0;
            scale->norm = norm;
            scale->factor = isfinite(norm) ? (float)(clip / loss_scale) : NAN;
        }
    }
};
EXPORT_ONE(ScaleGradient, scale_gradient, 256)

// sum += x; x = 0.
struct Accumulate {
    float* sum;
    float* x;
    long long len;

    __device__ void operator()() const {
        EACH(i, len) {
            sum[i] += x[i];
            x[i] = 0.0f;
        }
    }
};
EXPORT_ONE(Accumulate, accumulate, 256)

// Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).
template <class T> struct AdamW {
    float* w;
    T* working; // null if there are no working copies
    float* m;
    float* v;
    const float* grad;
    const GradScale* scale;
    long long len;
    float beta1, beta2, step_size, inverse_root, eps, keep;

    __device__ void operator()() const {
        if (!scale->is_finite()) return;
        float factor = scale->factor;
        EACH(i, len) {
            float g = grad[i] * factor;
            float first = beta1 * m[i] + (1.0f - beta1) * g;
            float second = beta2 * v[i] + (1.0f - beta2) * g * g;
            float weight = w[i] * keep - step_size * first / (sqrtf(second) * inverse_root + eps);
            m[i] = first;
            v[i] = second;
            w[i] = weight;
            if (working) working[i] = from_float<T>(weight);
        }
    }
};
EXPORT(AdamW, adamw, 256)

// Muon's momentum of several matrices of one shape, indexed by blockIdx.y, and their updates with Nesterov look-ahead.
struct MuonMomentum {
    float* update; // (matrices, len)
    float* momentum;
    const float* grad;
    const GradScale* scale;
    const long long* starts; // offset of each matrix in the weights
    long long len;
    float beta;
    int unused;

    __device__ void operator()() const {
        bool is_finite = scale->is_finite();
        float factor = scale->factor;
        float* update = this->update + blockIdx.y * len;
        float* momentum = this->momentum + starts[blockIdx.y];
        const float* grad = this->grad + starts[blockIdx.y];
        EACH(i, len) {
            float g = grad[i] * factor;
            float velocity = beta * momentum[i] + (1.0f - beta) * g;
            if (is_finite) momentum[i] = velocity;
            update[i] = (1.0f - beta) * g + beta * velocity;
        }
    }
};
EXPORT_ONE(MuonMomentum, muon_momentum, 256)

// x /= sqrt(sum of `parts`) + eps; blockIdx.y as in SumOfSquares.
struct Normalise {
    float* x;
    const double* parts;
    long long len;
    int n_parts;
    float eps;

    __device__ void operator()() const {
        float* x = this->x + blockIdx.y * len;
        const double* parts = this->parts + (long long)blockIdx.y * n_parts;
        double squares = 0.0;
        for (int i = 0; i < n_parts; i++) squares += parts[i];
        float factor = 1.0f / ((float)sqrt(squares) + eps);
        EACH(i, len) x[i] *= factor;
    }
};
EXPORT_ONE(Normalise, normalise, 256)

// w = keep w - rate update, for the matrices of MuonMomentum.
template <class T> struct MuonStep {
    float* w;
    T* working; // null if there are no working copies
    const float* update;
    const GradScale* scale;
    const long long* starts;
    long long len;
    float keep, rate;

    __device__ void operator()() const {
        if (!scale->is_finite()) return;
        const float* update = this->update + blockIdx.y * len;
        float* w = this->w + starts[blockIdx.y];
        T* working = this->working ? this->working + starts[blockIdx.y] : nullptr;
        EACH(i, len) {
            float weight = w[i] * keep - rate * update[i];
            w[i] = weight;
            if (working) working[i] = from_float<T>(weight);
        }
    }
};
EXPORT(MuonStep, muon_step, 256)
