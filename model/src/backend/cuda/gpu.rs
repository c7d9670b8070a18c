//! A GPU through NVIDIA's driver and cuBLAS, both loaded at run time.

use super::driver::{Address, Driver, Dtype, Fetch, Grid, Product};
use crate::{Error, Result};
use cudarc::cublas::{result as blas, sys as blas_sys};
use cudarc::driver::{result as cuda, sys as cuda_sys};
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The compiled kernels (fat binaries), by file name.
const MODULES: &[(&str, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// Bytes in each half of the staging memory for copies to the GPU.
const STAGING: usize = 16 << 20;

/// A GPU with its own stream.
#[derive(Debug)]
pub struct Gpu {
    device: cuda_sys::CUdevice,
    context: cuda_sys::CUcontext,
    stream: cuda_sys::CUstream,
    /// Whether memory is allocated and freed in stream order, without waiting.
    in_order: bool,
    modules: Vec<cuda_sys::CUmodule>,
    shared_limit: c_int,
    kernels: Mutex<HashMap<String, Kernel>>,
    blas: Mutex<Blas>,
    staging: Mutex<Staging>,
    /// Pinned memory of earlier copies to the host.
    landings: Arc<Mutex<Vec<Landing>>>,
}

#[derive(Debug, Clone, Copy)]
struct Kernel(cuda_sys::CUfunction);

#[derive(Debug)]
struct Blas(blas_sys::cublasHandle_t);

/// Two halves of pinned memory that are filled alternately: the GPU copies from one while the other is filled.
#[derive(Debug)]
struct Staging {
    halves: [*mut u8; 2],
    /// Events that mark when the GPU has finished copying from each half.
    copied: [cuda_sys::CUevent; 2],
    current: usize,
    filled: usize,
}

/// Pinned memory for copies to the host, kept for the lifetime of the process.
#[derive(Debug)]
struct Landing {
    memory: *mut u8,
    capacity: usize,
    /// Marks when the GPU has finished copying to it.
    copied: cuda_sys::CUevent,
}

/// A queued copy to the host.
struct GpuFetch {
    /// `None` once it has returned to `idle`.
    landing: Option<Landing>,
    bytes: usize,
    context: cuda_sys::CUcontext,
    idle: Arc<Mutex<Vec<Landing>>>,
}

// SAFETY: handles of the driver and of cuBLAS may be used from any thread on which the context is current, which every
// call here ensures; handles that must not be used concurrently are behind locks.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}
// SAFETY: as above; only accessed under its lock.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Send for Staging {}
// SAFETY: as above.
unsafe impl Send for Landing {}
// SAFETY: as above.
unsafe impl Send for GpuFetch {}

/// Converts an error of the driver.
fn failed(what: &str) -> impl Fn(cuda::DriverError) -> Error + '_ {
    move |error| {
        let text = error.error_string().map(|text| text.to_string_lossy().into_owned());
        let text = format!("cuda: {what}: {}", text.unwrap_or_else(|_| format!("{error:?}")));
        match error.0 {
            cuda_sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory(text),
            _ => Error::Input(text),
        }
    }
}

/// Converts an error of cuBLAS.
fn blas_failed(what: &str) -> impl Fn(blas::CublasError) -> Error + '_ {
    move |blas::CublasError(status)| {
        // SAFETY: the library returns a static string that ends with a zero byte.
        let text = unsafe { CStr::from_ptr(blas_sys::cublasGetStatusString(status)) };
        let text = format!("cuda: cuBLAS: {what}: {}", text.to_string_lossy());
        match status {
            blas_sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED => Error::OutOfMemory(text),
            _ => Error::Input(text),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a context current on this thread, if it is not yet.
fn enter(context: cuda_sys::CUcontext) -> Result<()> {
    thread_local! {
        static CURRENT: Cell<cuda_sys::CUcontext> = const { Cell::new(std::ptr::null_mut()) };
    }
    if CURRENT.get() != context {
        // SAFETY: contexts are kept for the lifetime of the process.
        unsafe { cuda::ctx::set_current(context) }.map_err(failed("making the context current"))?;
        CURRENT.set(context);
    }
    Ok(())
}

/// Allocates pinned host memory in the current context.
fn pinned(bytes: usize) -> Result<*mut u8> {
    // SAFETY: allocates host memory, which is kept for the lifetime of the process.
    let memory = unsafe { cuda::malloc_host(bytes, 0) };
    memory.map(|memory| memory.cast::<u8>()).map_err(failed("allocating pinned memory"))
}

/// Creates an event in the current context.
fn event() -> Result<cuda_sys::CUevent> {
    cuda::event::create(cuda_sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(failed("creating an event"))
}

/// Lets the driver keep freed memory for this process; returns whether this GPU supports stream-ordered allocation.
fn keep_memory(device: cuda_sys::CUdevice) -> Result<bool> {
    let supported = cuda_sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED;
    let mut threshold = u64::MAX;
    // SAFETY: the device comes from the driver, and the attribute is a 64-bit number.
    unsafe {
        if cuda::device::get_attribute(device, supported).map_err(failed("querying the GPU"))? == 0 {
            return Ok(false);
        }
        let pool = cuda::device::get_default_mem_pool(device).map_err(failed("querying the GPU"))?;
        cuda::mem_pool::set_attribute(
            pool,
            cuda_sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut threshold).cast(),
        )
        .map_err(failed("configuring the memory pool of the GPU"))?;
    }
    Ok(true)
}

/// The number of GPUs that the driver shows to this process.
///
/// # Errors
/// Returns an error if there is no driver, or none of its GPUs can be used.
pub fn count() -> Result<usize> {
    // SAFETY: only checks whether the library can be opened.
    if !unsafe { cuda_sys::is_culib_present() } {
        return Err(Error::Input(
            "cuda: NVIDIA's driver (libcuda.so.1) is not installed on this machine".into(),
        ));
    }
    cuda::init().map_err(failed("initializing the driver"))?;
    let count = cuda::device::get_count().map_err(failed("counting GPUs"))?;
    Ok(count.max(0) as usize)
}

/// Describes the compute capability of a GPU and the version of the driver.
fn versions(device: cuda_sys::CUdevice) -> Result<String> {
    let attribute = |attribute| {
        // SAFETY: the device comes from the driver.
        unsafe { cuda::device::get_attribute(device, attribute) }.map_err(failed("querying the GPU"))
    };
    let major = attribute(cuda_sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(cuda_sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let mut driver = 0;
    // SAFETY: writes one integer.
    let status = unsafe { cuda_sys::cuDriverGetVersion(&raw mut driver) };
    status.result().map_err(failed("querying the driver version"))?;
    Ok(format!("compute capability {major}.{minor}; driver of CUDA {}.{}", driver / 1000, driver % 1000 / 10))
}

impl Gpu {
    /// Opens the GPU with this index among those that the process sees.
    ///
    /// # Errors
    /// Returns an error that names what is missing: the driver, cuBLAS or the GPU.
    pub fn new(number: usize) -> Result<Self> {
        let count = count()?;
        // SAFETY: only checks whether the library can be opened.
        if !unsafe { blas_sys::is_culib_present() } {
            return Err(Error::Input(
                "cuda: cuBLAS (libcublas.so) not found: install the CUDA libraries, or add their folder to LD_LIBRARY_PATH"
                    .into(),
            ));
        }
        if number >= count {
            return Err(Error::Input(format!(
                "cuda: GPU {number} not found: the driver reports {count}, numbered from 0"
            )));
        }
        let device = cuda::device::get(number as c_int).map_err(failed("opening the GPU"))?;
        // SAFETY: the device comes from the driver; its context is kept for the lifetime of the process.
        let (context, shared_limit) = unsafe {
            let context = cuda::primary_ctx::retain(device).map_err(failed("opening the GPU"))?;
            cuda::ctx::set_current(context).map_err(failed("opening the GPU"))?;
            let limit = cuda_sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
            (context, cuda::device::get_attribute(device, limit).map_err(failed("querying the GPU"))?)
        };
        let in_order = keep_memory(device)?;
        let stream = cuda::stream::create(cuda::stream::StreamKind::NonBlocking)
            .map_err(failed("creating a stream"))?;
        let found = versions(device)?;
        let modules = MODULES.iter().map(|(name, image)| {
            // The driver requires images at addresses that are multiples of eight.
            let mut aligned = vec![0u64; image.len().div_ceil(8)];
            // SAFETY: copies exactly the bytes of the image into a buffer of at least that size; the driver retains no
            // pointer to it.
            unsafe {
                std::ptr::copy_nonoverlapping(image.as_ptr(), aligned.as_mut_ptr().cast(), image.len());
                cuda::module::load_data(aligned.as_ptr().cast())
            }
            .map_err(failed(&format!(
                "loading the kernels of {name} (they need compute capability 8.0 or later, and a driver no older than the \
                 compiler that built this program: R580 for CUDA 13.0; here: {found})"
            )))
        });
        let modules = modules.collect::<Result<Vec<_>>>()?;
        let handle = blas::create_handle().map_err(blas_failed("initialization"))?;
        // SAFETY: both were just created, in the same context.
        unsafe { blas::set_stream(handle, stream.cast()) }.map_err(blas_failed("initialization"))?;
        Ok(Self {
            device,
            context,
            stream,
            in_order,
            modules,
            shared_limit,
            kernels: Mutex::default(),
            blas: Mutex::new(Blas(handle)),
            staging: Mutex::new(Staging {
                halves: [pinned(STAGING)?, pinned(STAGING)?],
                copied: [event()?, event()?],
                current: 0,
                filled: 0,
            }),
            landings: Arc::default(),
        })
    }

    fn enter(&self) -> Result<()> {
        enter(self.context)
    }

    fn wait(&self) -> Result<()> {
        // SAFETY: the stream is kept for the lifetime of the process.
        unsafe { cuda::stream::synchronize(self.stream) }.map_err(failed("waiting for the GPU"))
    }

    fn kernel(&self, name: &str) -> Result<cuda_sys::CUfunction> {
        let mut kernels = lock(&self.kernels);
        if let Some(Kernel(function)) = kernels.get(name) {
            return Ok(*function);
        }
        let c_name = CString::new(name).unwrap_or_default();
        // SAFETY: modules are kept for the lifetime of the process.
        let find =
            |module: &cuda_sys::CUmodule| unsafe { cuda::module::get_function(*module, c_name.clone()) }.ok();
        let Some(function) = self.modules.iter().find_map(find) else {
            return Err(Error::Input(format!("cuda: kernel {name} not found")));
        };
        let limit = cuda_sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function was just found.
        unsafe { cuda::function::set_function_attribute(function, limit, self.shared_limit) }
            .map_err(failed("setting the shared-memory limit of a kernel"))?;
        kernels.insert(name.into(), Kernel(function));
        Ok(function)
    }
}

impl GpuFetch {
    /// Waits for the copy, and returns its memory.
    fn landed(&mut self) -> Result<Option<Landing>> {
        let Some(landing) = self.landing.take() else { return Ok(None) };
        enter(self.context)?;
        // SAFETY: the event was recorded when the copy was queued.
        unsafe { cuda::event::synchronize(landing.copied) }.map_err(failed("waiting for the GPU"))?;
        Ok(Some(landing))
    }
}

impl Fetch for GpuFetch {
    fn wait(mut self: Box<Self>, to: &mut [u8]) -> Result<()> {
        if let Some(landing) = self.landed()? {
            // SAFETY: the GPU has written these bytes.
            to.copy_from_slice(unsafe { std::slice::from_raw_parts(landing.memory, self.bytes) });
            lock(&self.idle).push(landing);
        }
        Ok(())
    }
}

impl Drop for GpuFetch {
    fn drop(&mut self) {
        // If waiting fails, the GPU has failed, and the memory is not used again.
        if let Ok(Some(landing)) = self.landed() {
            lock(&self.idle).push(landing);
        }
    }
}

impl Driver for Gpu {
    fn name(&self) -> Result<String> {
        self.enter()?;
        let name = cuda::device::get_name(self.device).map_err(failed("querying the GPU"))?;
        let versions = versions(self.device)?;
        let mut cublas = 0;
        // SAFETY: writes one integer; the handle is kept for the lifetime of the process.
        let status = unsafe { blas_sys::cublasGetVersion_v2(lock(&self.blas).0, &raw mut cublas) };
        status.result().map_err(blas_failed("querying the version"))?;
        let (_, memory) = cuda::mem_get_info().map_err(failed("querying the GPU"))?;
        Ok(format!(
            "{name}, {} GiB, {versions}, cuBLAS {}.{}.{}",
            memory >> 30,
            cublas / 10_000,
            cublas / 100 % 100,
            cublas % 100
        ))
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.enter()?;
        // SAFETY: allocates device memory, which is used on this stream only.
        let memory = unsafe {
            match self.in_order {
                true => cuda::malloc_async(self.stream, bytes),
                false => cuda::malloc_sync(bytes),
            }
        };
        memory.map_err(|error| {
            let (free, total) = cuda::mem_get_info().unwrap_or_default();
            let mib = |bytes: usize| bytes.div_ceil(1 << 20);
            let [bytes, free, total] = [bytes, free, total].map(mib);
            failed(&format!(
                "allocating {bytes} MiB: {free} of {total} MiB are free on this GPU (to use less, train with smaller \
                 batches or recompute = \"blocks\"; generate and serve fewer or shorter texts at a time)"
            ))(error)
        })
    }

    fn free(&self, at: Address, _: usize) {
        // SAFETY: the memory comes from `allocate` and is freed once all queued work is done. An error here would be
        // that of an earlier kernel, which the next call reports.
        let _ = self.enter().map(|()| unsafe {
            match self.in_order {
                true => cuda::free_async(at, self.stream),
                false => cuda::free_sync(at),
            }
        });
    }

    fn release_cached(&self) -> Result<()> {
        self.enter()?;
        self.wait()?;
        if self.in_order {
            // SAFETY: the device comes from the driver, and the pool belongs to it.
            unsafe {
                let pool =
                    cuda::device::get_default_mem_pool(self.device).map_err(failed("querying the GPU"))?;
                cuda::mem_pool::trim_to(pool, 0).map_err(failed("releasing GPU memory"))?;
            }
        }
        Ok(())
    }

    fn shared_limit(&self) -> usize {
        self.shared_limit.max(0) as usize
    }

    fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        self.enter()?;
        let mut staging = lock(&self.staging);
        for part in from.chunks(STAGING) {
            if staging.filled + part.len() > STAGING {
                let (full, next) = (staging.current, 1 - staging.current);
                // SAFETY: events and stream are kept for the lifetime of the process; synchronizing with an event that
                // was never recorded does not wait.
                unsafe {
                    cuda::event::record(staging.copied[full], self.stream)
                        .map_err(failed("copying to the GPU"))?;
                    cuda::event::synchronize(staging.copied[next]).map_err(failed("copying to the GPU"))?;
                }
                (staging.current, staging.filled) = (next, 0);
            }
            let offset = part.as_ptr() as usize - from.as_ptr() as usize;
            // SAFETY: the half has room for the part, and the GPU has copied everything that was there before; the
            // destination was allocated with room for all of `from`.
            unsafe {
                let pinned = staging.halves[staging.current].add(staging.filled);
                std::ptr::copy_nonoverlapping(part.as_ptr(), pinned, part.len());
                let pinned = std::slice::from_raw_parts(pinned, part.len());
                cuda::memcpy_htod_async(to + offset as u64, pinned, self.stream)
                    .map_err(failed("copying to the GPU"))?;
            }
            staging.filled += part.len().next_multiple_of(256);
        }
        Ok(())
    }

    fn download(&self, to: &mut [u8], from: Address) -> Result<()> {
        self.enter()?;
        // SAFETY: `from` was allocated with at least as many bytes; the copy is waited for below.
        unsafe { cuda::memcpy_dtoh_async(to, from, self.stream) }.map_err(failed("copying from the GPU"))?;
        self.wait()
    }

    fn fetch(&self, from: Address, bytes: usize) -> Result<Box<dyn Fetch>> {
        self.enter()?;
        let idle = {
            let mut landings = lock(&self.landings);
            let place = landings.iter().position(|landing| landing.capacity >= bytes);
            place.map(|place| landings.swap_remove(place))
        };
        let landing = match idle {
            Some(landing) => landing,
            None => {
                let capacity = bytes.next_power_of_two().max(4096);
                Landing { memory: pinned(capacity)?, capacity, copied: event()? }
            }
        };
        // SAFETY: `from` was allocated with at least as many bytes, and so was the landing, which nothing else uses until
        // the event that is recorded behind the copy.
        unsafe {
            let to = std::slice::from_raw_parts_mut(landing.memory, bytes);
            cuda::memcpy_dtoh_async(to, from, self.stream).map_err(failed("copying from the GPU"))?;
            cuda::event::record(landing.copied, self.stream).map_err(failed("copying from the GPU"))?;
        }
        let (context, idle) = (self.context, self.landings.clone());
        Ok(Box::new(GpuFetch { landing: Some(landing), bytes, context, idle }))
    }

    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: both ranges were allocated with at least as many bytes.
        unsafe { cuda::memcpy_dtod_async(to, from, bytes, self.stream) }.map_err(failed("copying on the GPU"))
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the range was allocated with at least as many bytes.
        unsafe { cuda::memset_d8_async(at, 0, bytes, self.stream) }.map_err(failed("zeroing GPU memory"))
    }

    unsafe fn launch(&self, kernel: &str, grid: Grid, arguments: *const c_void, _: usize) -> Result<()> {
        self.enter()?;
        let function = self.kernel(kernel)?;
        let [x, y, z] = grid.blocks;
        let mut parameters = [arguments.cast_mut()];
        // SAFETY: the caller guarantees that the arguments are valid; the driver copies them before this returns.
        unsafe {
            cuda::launch_kernel(
                function,
                (x, y, z),
                (grid.threads, 1, 1),
                grid.shared as u32,
                self.stream,
                &mut parameters,
            )
        }
        .map_err(|error| failed(&format!("launching kernel {kernel} with {grid:?}"))(error))
    }

    fn product(&self, product: &Product) -> Result<()> {
        self.enter()?;
        let Product { a, b, m, n, k, .. } = *product;
        let kind = |dtype| match dtype {
            Dtype::F32 => blas_sys::cudaDataType::CUDA_R_32F,
            Dtype::Bf16 => blas_sys::cudaDataType::CUDA_R_16BF,
            Dtype::F16 => blas_sys::cudaDataType::CUDA_R_16F,
        };
        let turn = |transposed| match transposed {
            true => blas_sys::cublasOperation_t::CUBLAS_OP_T,
            false => blas_sys::cublasOperation_t::CUBLAS_OP_N,
        };
        let compute = match product.tf32 && product.factors == Dtype::F32 {
            true => blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            false => blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        // cuBLAS is column-major: it sees every matrix transposed, and the transpose of c is the transpose of b times
        // the transpose of a.
        let (lda, ldb) = (if a.transposed { m } else { k }, if b.transposed { k } else { n });
        let blas = lock(&self.blas);
        // SAFETY: the addresses were allocated with room for matrices of these sizes.
        unsafe {
            blas::gemm_strided_batched_ex(
                blas.0,
                turn(b.transposed),
                turn(a.transposed),
                n as c_int,
                m as c_int,
                k as c_int,
                (&raw const product.alpha).cast(),
                b.at as *const c_void,
                kind(product.factors),
                ldb as c_int,
                (k * n) as i64,
                a.at as *const c_void,
                kind(product.factors),
                lda as c_int,
                (m * k) as i64,
                (&raw const product.beta).cast(),
                product.c as *mut c_void,
                kind(product.result),
                n as c_int,
                (m * n) as i64,
                product.batch as c_int,
                compute,
                blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        }
        .map_err(|error| blas_failed(&format!("matrix product {m} x {n} x {k}"))(error))
    }
}
