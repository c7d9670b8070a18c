//! Emulation of a GPU: it computes the same results as a GPU and reports errors of kernels. The kernels are those of
//! `src/backend/cuda/emulation/tests.cu`.
#![cfg(feature = "emulate")]

use model::backend::cuda::{Address, Driver, Dtype, Emulation, Factor, Grid, Product};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ptr::from_ref;

const NULL: Address = 0;

fn launch<A>(gpu: &Emulation, kernel: &str, grid: Grid, arguments: &A) -> Result<(), String> {
    // SAFETY: Each test passes the structure that its kernel expects; invalid addresses are deliberate and part of the test.
    unsafe { gpu.launch(kernel, grid, from_ref(arguments).cast(), size_of::<A>()) }.map_err(|e| e.to_string())
}

fn grid(blocks: u32, threads: u32, shared: usize) -> Grid {
    Grid { blocks: [blocks, 1, 1], threads, shared }
}

/// Conversion of numbers to bytes and back.
trait Bytes: Copy {
    fn bytes(self) -> Vec<u8>;
    fn of(bytes: &[u8]) -> Self;
}

macro_rules! bytes {
    ($($number:ty)*) => {$(
        impl Bytes for $number {
            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn of(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().unwrap())
            }
        }
    )*};
}
bytes!(f32 i32 u16 u32);

fn put<N: Bytes>(gpu: &Emulation, numbers: &[N]) -> Address {
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.bytes()).collect();
    let at = gpu.allocate(bytes.len()).unwrap();
    gpu.upload(at, &bytes).unwrap();
    at
}

fn get<N: Bytes>(gpu: &Emulation, at: Address, count: usize) -> Vec<N> {
    let mut bytes = vec![0; count * size_of::<N>()];
    gpu.download(&mut bytes, at).unwrap();
    bytes.chunks(size_of::<N>()).map(N::of).collect()
}

#[repr(C)]
struct Sum {
    x: Address,
    sums: Address,
    n: i32,
}

/// Sums 200 rows of 300 numbers each by a kernel and returns how many sums are wrong.
fn wrong_sums(kernel: &str, shared: usize) -> usize {
    let (rows, n) = (200, 300);
    let gpu = Emulation::default();
    let x: Vec<f32> = (0..rows * n).map(|i| (i * i % 251) as f32).collect(); // whole numbers: sums are exact in any order
    let (from, to) = (put(&gpu, &x), gpu.allocate(rows * 4).unwrap());
    launch(&gpu, kernel, grid(rows as u32, 256, shared), &Sum { x: from, sums: to, n: n as i32 }).unwrap();
    let sums = get::<f32>(&gpu, to, rows);
    sums.iter().zip(x.chunks(n)).filter(|&(&sum, row)| sum != row.iter().sum::<f32>()).count()
}

#[test]
fn reductions_are_right_and_without_a_barrier_they_are_wrong() {
    assert_eq!(wrong_sums("test_sum", 8 * 4), 0);
    assert_eq!(wrong_sums("test_tree", 256 * 4), 0);
    let wrong = wrong_sums("test_tree_without_a_barrier", 256 * 4);
    assert!(wrong > 100, "{wrong} of 200 sums are wrong");
}

#[test]
fn a_barrier_that_some_threads_do_not_reach_is_reported() {
    let run = |first: i32, second: i32| {
        launch(&Emulation::default(), "test_barrier", grid(1, 64, 0), &[first, second])
            .map_err(|e| strip_lines(&e))
    };
    assert_eq!(run(64, 64), Ok(()));
    assert_eq!(run(0, 64), Ok(()));
    assert_eq!(
        run(40, 40).unwrap_err(),
        "test_barrier: block (0, 0, 0): threads wait for each other: 40 of 64 in the barrier of tests.cu; 24 have ended"
    );
    let error = run(40, 64).unwrap_err();
    assert!(error.contains("is in the barrier of tests.cu while"), "{error}");
}

/// Removes line numbers from a message.
fn strip_lines(message: &str) -> String {
    let is_line = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    let mut parts = message.split(':');
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        if is_line(part) {
            text += part.trim_start_matches(|c: char| c.is_ascii_digit());
        } else {
            text = text + ":" + part;
        }
    }
    text
}

#[repr(C)]
struct Lanes {
    result: Address,
    first: i32,
    last: i32,
    mask: u32,
}

#[test]
fn lanes_that_are_missing_in_an_operation_of_their_warp_are_reported() {
    let gpu = Emulation::default();
    let result = put(&gpu, &[-1i32; 64]);
    let run = |first, last, mask| {
        launch(&gpu, "test_lanes", grid(1, 64, 0), &Lanes { result, first, last, mask })
            .map_err(|e| strip_lines(&e))
    };
    assert_eq!(run(3, 10, 0x7f8), Ok(()));
    assert_eq!(get::<i32>(&gpu, result + 32 * 4, 12), [-1, -1, -1, 9, 9, 9, 9, 9, 9, 9, 9, -1]);
    let error = run(3, 10, 0xff8).unwrap_err();
    assert!(error.starts_with(
        "test_lanes: block (0, 0, 0): threads wait for each other: lanes 000007f8 of warp 0 in "
    ));
    assert!(
        error.contains("__shfl_sync of tests.cu, whose mask is 00000ff8; lanes 000007f8 of warp 1 in"),
        "{error}"
    );
    assert!(error.ends_with("; 48 have ended"), "{error}");
    let error = run(3, 10, 0x3f8).unwrap_err();
    assert!(
        error.contains("lane 10 calls __shfl_sync with the mask 000003f8, which leaves it out"),
        "{error}"
    );
}

#[test]
fn lanes_exchange_what_they_should() {
    let gpu = Emulation::default();
    let at = gpu.allocate(64 * 8 * 4).unwrap();
    launch(&gpu, "test_warp", grid(1, 64, 0), &at).unwrap();
    for (i, results) in get::<i32>(&gpu, at, 64 * 8).chunks(8).enumerate() {
        let lane = i as i32 % 32;
        let expected = [
            1000 + lane / 8 * 8 + (lane + 3) % 8,
            1000 + (lane ^ 5),
            1000 + if lane + 7 < 32 { lane + 7 } else { lane },
            1000 + if lane % 16 >= 7 { lane - 7 } else { lane },
            (0..32).filter(|lane| lane % 3 == 0).map(|lane| 1 << lane).sum(),
            1 + 4,
            10 + 100 * (0..=lane).sum::<i32>(),
            (0..32).map(|lane| lane * (lane + 1)).sum(),
        ];
        assert_eq!(results, expected, "thread {i}");
    }
}

#[repr(C)]
struct Write {
    floats: Address,
    shift: i32,
    shared: i32,
}

#[test]
fn accesses_out_of_bounds_are_reported() {
    let gpu = Emulation::default();
    let others: Vec<_> = (0..20).map(|i| gpu.allocate(i * 1000).unwrap()).collect();
    let floats = gpu.allocate(40 * 4).unwrap(); // 160 of 256 allocated bytes
    let write = |threads, shift, shared: usize| {
        launch(
            &gpu,
            "test_write",
            grid(1, threads, shared),
            &Write { floats, shift, shared: i32::from(shared > 0) },
        )
    };
    assert_eq!(write(32, 8, 0), Ok(()));
    assert_eq!(get::<f32>(&gpu, floats + 8 * 4, 32), (0..32).map(|i| i as f32).collect::<Vec<_>>());
    let fails = |problem: Result<(), String>, expected: &str| {
        let problem = problem.unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    };
    fails(write(64, 8, 128), "test_write: block (0, 0, 0), thread ");
    fails(
        write(32, 1, 128),
        "test_write: block (0, 0, 0), thread 31: reads or writes shared memory 128 bytes after",
    );
    fails(write(32, -1, 128), "test_write: block (0, 0, 0): writes byte -4 of 128 of its shared memory");
    fails(write(32, 0, 100), "test_write: block (0, 0, 0): writes byte 100 of 100 of its shared memory");
    fails(write(64, 1_000, 0), "bytes after the start of an allocation of 160");
    fails(write(32, -100_000, 0), "reads or writes memory that it may not");
    // These come last because the slack after the allocation stays overwritten.
    fails(write(32, 9, 0), "test_write: writes byte 160 of an allocation of 160 bytes");
    gpu.free(floats, 160);
    assert_eq!(write(32, 0, 128), Ok(()));
    fails(write(32, 0, 0), "test_write: block (0, 0, 0), thread "); // use after free
    others.into_iter().enumerate().for_each(|(i, at)| gpu.free(at, i * 1000));
}

#[test]
fn a_write_before_an_allocation_is_reported() {
    let gpu = Emulation::default();
    let floats = gpu.allocate(256).unwrap();
    let error =
        launch(&gpu, "test_write", grid(1, 32, 0), &Write { floats, shift: -1, shared: 0 }).unwrap_err();
    assert_eq!(error, "test_write: writes byte -4 of an allocation of 256 bytes");
}

#[test]
fn what_is_undefined_is_reported() {
    #[repr(C)]
    struct Undefined {
        floats: Address,
        what: i32,
        number: i32,
    }
    let gpu = Emulation::default();
    let floats = put(&gpu, &[0.0f32; 64]);
    let run = |what, number| {
        let launched = launch(&gpu, "test_undefined", grid(1, 32, 0), &Undefined { floats, what, number });
        launched
            .map_err(|e| strip_lines(&e).split_once(": ").unwrap().1.split_once(": ").unwrap().1.to_owned())
    };
    for (what, number) in [(0, 4), (1, 3), (2, 0), (3, 0)] {
        assert_eq!(run(what, number), Ok(()), "{what}");
    }
    let place = format!("common.cuh: reads or writes at {:#x}, expected a multiple of 16", floats + 4);
    assert!(run(0, 1).unwrap_err().ends_with(&place), "{:?}", run(0, 1));
    assert_eq!(run(1, 4).unwrap_err(), "tests.cu: an index is out of its array");
    assert_eq!(run(2, 1).unwrap_err(), "tests.cu: divides an integer by zero");
    assert_eq!(run(3, 1).unwrap_err(), "tests.cu: an integer sum overflows");
    assert_eq!(run(4, 1).unwrap_err(), "its variables need more than 65536 bytes");
}

#[test]
fn what_was_not_written_is_nan() {
    let gpu = Emulation::default();
    let floats = gpu.allocate(10 * 32 * 4).unwrap();
    assert!(get::<f32>(&gpu, floats, 320).iter().all(|x| x.is_nan()));
    launch(&gpu, "test_shared", grid(10, 32, 128), &floats).unwrap();
    for block in get::<f32>(&gpu, floats, 320).chunks(32) {
        assert_eq!(block[0], 7.0);
        assert!(block[1..].iter().all(|x| x.is_nan()), "{block:?}");
    }
}

#[test]
fn copies_that_nobody_waited_for_are_nan() {
    #[repr(C)]
    struct Copy {
        from: Address,
        to: Address,
        waits: i32,
    }
    let gpu = Emulation::default();
    let (from, to) = (put(&gpu, &[3.0f32; 64 * 4]), gpu.allocate(64 * 16).unwrap());
    let run = |from, waits| launch(&gpu, "test_copy", grid(1, 64, 64 * 16), &Copy { from, to, waits });
    run(from, 0).unwrap();
    assert!(get::<f32>(&gpu, to, 64 * 4).iter().all(|x| x.is_nan()));
    run(from, 1).unwrap();
    for (i, x) in get::<f32>(&gpu, to, 64 * 4).into_iter().enumerate() {
        assert_eq!(x, if i / 4 % 2 == 0 { 3.0 } else { 0.0 });
    }
    assert!(run(from + 4, 1).unwrap_err().contains("expected multiples of 16"));
}

#[test]
fn launches_that_a_gpu_refuses_are_refused() {
    let gpu = Emulation::default();
    let refused = |kernel: &str, grid: Grid, expected: &str| {
        assert_eq!(launch(&gpu, kernel, grid, &Sum { x: NULL, sums: NULL, n: 0 }).unwrap_err(), expected);
    };
    refused("test_sums", grid(1, 32, 0), "there is no kernel test_sums");
    refused("test_sum", grid(1, 288, 0), "test_sum: 288 threads, expected a multiple of 32, at most 256");
    refused("test_sum", grid(1, 33, 0), "test_sum: 33 threads, expected a multiple of 32, at most 256");
    refused("test_sum", grid(1, 0, 0), "test_sum: 0 threads, expected a multiple of 32, at most 256");
    refused(
        "test_sum",
        grid(1, 32, 200_000),
        "test_sum: 200000 bytes of shared memory, expected at most 166912",
    );
    refused("test_shared", grid(1, 32, 0), "test_shared: the arguments have 24 bytes, expected 8");
    refused(
        "test_sum",
        Grid { blocks: [1, 70_000, 1], threads: 32, shared: 0 },
        "test_sum: (1, 70000, 1) blocks, expected at least 1 of each and at most 2^31 - 1, 65535, 65535",
    );
}

#[test]
fn whole_numbers_are_added_atomically_in_every_block() {
    #[repr(C)]
    struct Count {
        count: Address,
        largest: Address,
        divisor: i32,
    }
    let gpu = Emulation::default();
    let (count, largest) = (put(&gpu, &[0i32]), put(&gpu, &[0u32]));
    let blocks = Grid { blocks: [100, 1, 1], threads: 64, shared: 0 };
    launch(&gpu, "test_count", blocks, &Count { count, largest, divisor: 7 }).unwrap();
    assert_eq!(get::<i32>(&gpu, count, 1), [6400 / 7 + 1]);
    assert_eq!(get::<u32>(&gpu, largest, 1), [6399]);
}

#[test]
fn copies_stay_in_their_allocation() {
    let gpu = Emulation::default();
    let (a, b) = (put(&gpu, &[1.0f32, 2.0, 3.0]), gpu.allocate(8).unwrap());
    gpu.copy(b, a + 4, 8).unwrap();
    assert_eq!(get::<f32>(&gpu, b, 2), [2.0, 3.0]);
    gpu.zero(b + 4, 4).unwrap();
    assert_eq!(get::<f32>(&gpu, b, 2), [2.0, 0.0]);
    assert!(gpu.copy(b, a, 12).is_err());
    assert!(gpu.copy(a + 4, a, 8).is_err());
    assert!(gpu.upload(a + 8, &[0; 5]).is_err());
    assert!(gpu.download(&mut [0; 13], a).is_err());
    assert!(gpu.zero(a - 1, 1).is_err());
    assert!(gpu.zero(NULL, 1).is_err());
    assert_eq!(gpu.zero(NULL, 0).map_err(|e| e.to_string()), Ok(()));
}

/// A 16-bit floating-point format: number of bits of exponent and mantissa.
#[derive(Clone, Copy)]
struct Narrow {
    exponent: i32,
    mantissa: i32,
}

const BF16: Narrow = Narrow { exponent: 8, mantissa: 7 };
const F16: Narrow = Narrow { exponent: 5, mantissa: 10 };

impl Narrow {
    /// Returns the value of bits according to IEEE 754; for infinity, the next value that a larger exponent would represent.
    fn value(self, bits: u16) -> f64 {
        let exponent = i32::from(bits & 0x7fff) >> self.mantissa;
        let mantissa = i32::from(bits) & ((1 << self.mantissa) - 1);
        let bias = (1 << (self.exponent - 1)) - 1;
        let (whole, exponent) = if exponent == 0 { (0, 1) } else { (1 << self.mantissa, exponent) };
        let size = f64::from(whole + mantissa) * f64::from(exponent - bias - self.mantissa).exp2();
        if bits >= 0x8000 { -size } else { size }
    }

    fn infinity(self) -> u16 {
        ((1 << self.exponent) - 1) << self.mantissa
    }

    /// Returns f32 numbers and the bits they round to: each finite number of the format, the midpoint between it and the next
    /// one away from zero, and both neighbours of the midpoint; also NaN, infinity and the largest f32.
    fn cases(self) -> Vec<(f32, u16)> {
        let mut cases = vec![(f32::NAN, 0x7fff), (-f32::NAN, 0x7fff), (f32::MAX, self.infinity())];
        for sign in [0, 0x8000] {
            cases.push((f32::INFINITY.copysign(self.value(sign | 1) as f32), sign | self.infinity()));
            for size in 0..self.infinity() {
                let bits = sign | size;
                let middle = f64::midpoint(self.value(bits), self.value(bits + 1));
                let (here, exact) = (self.value(bits) as f32, middle as f32);
                assert_eq!((f64::from(here), f64::from(exact)), (self.value(bits), middle));
                let (below, above) =
                    (f32::from_bits(exact.to_bits() - 1), f32::from_bits(exact.to_bits() + 1));
                let here = if size == 0 { here.copysign(exact) } else { here };
                cases.extend([(here, bits), (below, bits), (exact, bits + bits % 2), (above, bits + 1)]);
            }
        }
        cases
    }
}

#[repr(C)]
struct Convert {
    from: Address,
    to: Address,
    n: i32,
}

#[test]
fn every_narrow_number_converts_as_on_a_gpu() {
    let gpu = Emulation::default();
    for (format, narrow, widen) in
        [(BF16, "test_to_bf16", "test_from_bf16"), (F16, "test_to_f16", "test_from_f16")]
    {
        let cases = format.cases();
        let n = cases.len();
        let from = put(&gpu, &cases.iter().map(|case| case.0).collect::<Vec<_>>());
        let to = gpu.allocate(n * 2).unwrap();
        launch(&gpu, narrow, grid(n.div_ceil(256) as u32, 256, 0), &Convert { from, to, n: n as i32 })
            .unwrap();
        for ((x, expected), bits) in cases.into_iter().zip(get::<u16>(&gpu, to, n)) {
            assert_eq!(bits, expected, "{x:e} is {bits:#x}, expected {expected:#x}");
        }
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let (from, to) = (put(&gpu, &all), gpu.allocate(all.len() * 4).unwrap());
        launch(&gpu, widen, grid(256, 256, 0), &Convert { from, to, n: all.len() as i32 }).unwrap();
        for (bits, x) in all.iter().zip(get::<f32>(&gpu, to, all.len())) {
            match (bits & 0x7fff).cmp(&format.infinity()) {
                std::cmp::Ordering::Less => assert_eq!(f64::from(x), format.value(*bits), "{bits:#x}"),
                std::cmp::Ordering::Equal => assert!(x.is_infinite(), "{bits:#x} is {x}"),
                std::cmp::Ordering::Greater => assert!(x.is_nan(), "{bits:#x} is {x}"),
            }
            assert!(x.is_nan() || x.is_sign_negative() == (*bits >= 0x8000), "{bits:#x} is {x}");
        }
    }
}

/// Rounds a number to a type and returns its bytes and its rounded value; the test above checks the rounding.
fn number(dtype: Dtype, x: f32) -> (Vec<u8>, f32) {
    match dtype {
        Dtype::F32 => (x.bytes(), x),
        Dtype::Bf16 => (half::bf16::from_f32(x).to_bits().bytes(), half::bf16::from_f32(x).to_f32()),
        Dtype::F16 => (half::f16::from_f32(x).to_bits().bytes(), half::f16::from_f32(x).to_f32()),
    }
}

#[test]
fn products_are_right_in_every_type_and_direction() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let gpu = Emulation::default();
    let types = [
        (Dtype::F32, Dtype::F32),
        (Dtype::Bf16, Dtype::Bf16),
        (Dtype::Bf16, Dtype::F32),
        (Dtype::F16, Dtype::F16),
        (Dtype::F16, Dtype::F32),
    ];
    for (case, (factors, result)) in types.into_iter().cycle().take(60).enumerate() {
        let [m, n, k] = [0; 3].map(|_| random.random_range(1..20usize));
        let (batch, alpha, beta) = (1 + case % 4, 0.5, [0.0, 1.0, -2.0][case % 3]);
        let mut matrix = |dtype, count| {
            let numbers: Vec<_> = (0..count).map(|_| number(dtype, random.random_range(-1.0..1.0))).collect();
            let at = gpu.allocate(count * dtype.size()).unwrap();
            gpu.upload(at, &numbers.iter().flat_map(|x| x.0.clone()).collect::<Vec<_>>()).unwrap();
            (at, numbers.into_iter().map(|x| x.1).collect::<Vec<_>>())
        };
        let ((a, xs), (b, ys), (mut c, zs)) =
            (matrix(factors, batch * m * k), matrix(factors, batch * k * n), matrix(result, batch * m * n));
        if beta == 0.0 {
            c = gpu.allocate(batch * m * n * result.size()).unwrap(); // NaN, which beta = 0 must not read
        }
        let (flip_a, flip_b) = (case % 2 == 0, case / 2 % 2 == 0);
        let (left, right) = (Factor { at: a, transposed: flip_a }, Factor { at: b, transposed: flip_b });
        let (a, b, tf32) = (left, right, false);
        gpu.product(&Product { a, b, c, m, n, k, batch, factors, result, tf32, alpha, beta }).unwrap();
        let mut bytes = vec![0; batch * m * n * result.size()];
        gpu.download(&mut bytes, c).unwrap();
        for (one, i) in (0..batch).flat_map(|one| (0..m).map(move |i| (one, i))) {
            let (xs, ys) = (&xs[one * m * k..], &ys[one * k * n..]);
            for j in 0..n {
                let x = |l: usize| f64::from(if flip_a { xs[l * m + i] } else { xs[i * k + l] });
                let y = |l: usize| f64::from(if flip_b { ys[j * k + l] } else { ys[l * n + j] });
                let sum: f64 = (0..k).map(|l| x(l) * y(l)).sum();
                let place = (one * m + i) * n + j;
                let expected = f64::from(alpha) * sum + f64::from(beta) * f64::from(zs[place]);
                let at = &bytes[place * result.size()..][..result.size()];
                let value = match result {
                    Dtype::F32 => f32::of(at),
                    Dtype::Bf16 => half::bf16::from_bits(u16::of(at)).to_f32(),
                    Dtype::F16 => half::f16::from_bits(u16::of(at)).to_f32(),
                };
                let close = match result {
                    Dtype::F32 => 1e-5,
                    Dtype::Bf16 => 1e-5 + expected.abs() / 256.0,
                    Dtype::F16 => 1e-5 + expected.abs() / 2048.0,
                };
                assert!(
                    (f64::from(value) - expected).abs() <= close,
                    "case {case}: {value}, expected {expected}"
                );
            }
        }
    }
}

#[test]
fn a_product_of_types_that_cublas_does_not_multiply_is_refused() {
    let gpu = Emulation::default();
    let a = Factor { at: put(&gpu, &[1.0f32]), transposed: false };
    let (factors, result) = (Dtype::F32, Dtype::Bf16);
    let (c, tf32, alpha, beta) = (a.at, false, 1.0, 0.0);
    let product = Product { a, b: a, c, m: 1, n: 1, k: 1, batch: 1, factors, result, tf32, alpha, beta };
    assert_eq!(gpu.product(&product).unwrap_err().to_string(), "product: no Bf16 is made of F32");
}
