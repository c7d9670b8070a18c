//! Single-threaded matrix products on slices. One core, one product: lanes are what runs in parallel.

/// A row-major matrix inside a slice: `rows x cols`, rows `stride` elements apart.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A dense matrix that fills `data`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A matrix whose rows start `stride` elements apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || data.len() >= (rows - 1) * stride + cols);
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// The transpose, without a copy.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// `out = a b`, or `out += a b` where `accumulate`; `out` is row-major with rows `stride` apart.
///
/// `a`: `(m, k)`; `b`: `(k, n)`; `out`: `(m, n)`.
pub fn matmul(out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(b.rows, k, "inner dimensions of a matrix product");
    if m == 0 || n == 0 {
        return;
    }
    assert!(out.len() >= (m - 1) * stride + n);
    // SAFETY: `Mat` holds slices that cover every element its strides reach, `out` was checked above, and
    // the exclusive borrow of `out` rules out overlap.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// `y = x wᵀ`: a linear layer forward. `x`: `(n, in)`; `w`: `(out, in)`; `y`: `(n, out)`.
pub fn linear(y: &mut [f32], x: &[f32], w: &[f32], n: usize, d_in: usize, accumulate: bool) {
    let d_out = w.len() / d_in;
    matmul(y, d_out, Mat::new(x, n, d_in), Mat::new(w, d_out, d_in).t(), accumulate);
}

/// `dx = dy w`: the gradient of a linear layer's input. `dy`: `(n, out)`; `dx`: `(n, in)`.
pub fn linear_input_grad(dx: &mut [f32], dy: &[f32], w: &[f32], n: usize, d_in: usize, accumulate: bool) {
    let d_out = w.len() / d_in;
    matmul(dx, d_in, Mat::new(dy, n, d_out), Mat::new(w, d_out, d_in), accumulate);
}

/// `dw += dyᵀ x`: the gradient of a linear layer's weight. `dw`: `(out, in)`.
pub fn linear_weight_grad(dw: &mut [f32], dy: &[f32], x: &[f32], n: usize, d_in: usize) {
    let d_out = dw.len() / d_in;
    matmul(dw, d_in, Mat::new(dy, n, d_out).t(), Mat::new(x, n, d_in), true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_follow_the_definition() {
        // [1 2; 3 4; 5 6] [1 0 2; 0 1 3] by hand.
        let a = [1., 2., 3., 4., 5., 6.];
        let b = [1., 0., 2., 0., 1., 3.];
        let mut out = [1.0; 9];
        matmul(&mut out, 3, Mat::new(&a, 3, 2), Mat::new(&b, 2, 3), true);
        assert_eq!(out, [2., 3., 9., 4., 5., 19., 6., 7., 29.]);
    }

    #[test]
    fn linear_layers_and_their_gradients_agree_on_shapes() {
        let (x, w) = ([1., 2.], [3., 4., 5., 6., 7., 8.]); // x (1, 2), w (3, 2)
        let mut y = [0.0; 3];
        linear(&mut y, &x, &w, 1, 2, false);
        assert_eq!(y, [11., 17., 23.]);
        let mut dx = [0.0; 2];
        linear_input_grad(&mut dx, &[1., 1., 1.], &w, 1, 2, false);
        assert_eq!(dx, [15., 18.]);
        let mut dw = [1.0; 6];
        linear_weight_grad(&mut dw, &[1., 2., 3.], &x, 1, 2);
        assert_eq!(dw, [2., 3., 3., 5., 4., 7.]);
    }
}
