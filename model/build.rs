//! Compiles the kernels of the CUDA backend: for GPUs with nvcc (feature `cuda`), for the CPU with g++ (feature `emulate`).

#[cfg(any(feature = "cuda", feature = "emulate"))]
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "emulate")]
    emulate();
    #[cfg(feature = "cuda")]
    if let Err(problem) = cuda::compile() {
        eprintln!("{problem}");
        std::process::exit(1);
    }
}

#[cfg(any(feature = "cuda", feature = "emulate"))]
const KERNELS: &str = "src/backend/cuda/kernels";

/// Returns the files of a folder with the given extension, sorted.
#[cfg(any(feature = "cuda", feature = "emulate"))]
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    println!("cargo:rerun-if-changed={folder}");
    let entries = Path::new(folder).read_dir().into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == extension));
    files.sort();
    files
}

/// Compiles libraries of all kernels, including those of the tests, and of the emulation. See `backend/cuda/emulation`.
#[cfg(feature = "emulate")]
fn emulate() {
    let folder = "src/backend/cuda/emulation";
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).debug(false);
    build.define("EMULATE", None).include(folder).include(KERNELS);
    for flag in [
        "-fno-strict-aliasing", // kernels reinterpret memory as other types, which nvcc allows
        "-fno-exceptions",
        "-fstack-clash-protection", // large stack variables must touch the guard page
        "-ftls-model=initial-exec",
        "-Wno-unknown-pragmas", // #pragma unroll
        "-Wno-unused-parameter",
    ] {
        build.flag(flag);
    }
    build.clone().files(files(folder, "cpp")).compile("mindscale_emulation");
    build
        .flag("-fsanitize=alignment,bounds,shift-exponent,integer-divide-by-zero,signed-integer-overflow,return")
        .flag("-xc++") // treat .cu files as C++
        .files(files(folder, "cu"))
        .files(files(KERNELS, "cu"))
        .link_lib_modifier("+whole-archive") // kernels register themselves
        .compile("mindscale_kernels");
}

#[cfg(feature = "cuda")]
mod cuda {
    use super::{KERNELS, files};
    use std::fmt::Write;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::{env, fs};

    /// Target architectures; GPUs between these versions run the binary of a lower one, later GPUs compile the PTX.
    const TARGETS: [&str; 3] =
        ["arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_90,code=compute_90"];

    /// Compiles each file to a fat binary and writes `fatbins.rs` to `OUT_DIR`, an array of their names and contents.
    pub fn compile() -> Result<(), String> {
        let nvcc = nvcc()?;
        let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set; cargo sets it")?);
        let mut list = String::from("[\n");
        for file in files(KERNELS, "cu") {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let fatbin = out.join(format!("{name}.fatbin"));
            compile_one(&nvcc, &file, &fatbin)?;
            let _ = writeln!(list, "    ({name:?}, include_bytes!({fatbin:?}) as &[u8]),");
        }
        list += "]\n";
        let path = out.join("fatbins.rs");
        fs::write(&path, list).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn compile_one(nvcc: &Path, file: &Path, fatbin: &Path) -> Result<(), String> {
        let mut command = Command::new(nvcc);
        command.args(["-fatbin", "-O3", "-std=c++17"]);
        for target in TARGETS {
            command.args(["-gencode", target]);
        }
        let status = command.arg(file).arg("-o").arg(fatbin).status();
        let status = status.map_err(|e| format!("{}: {e}", nvcc.display()))?;
        if !status.success() {
            return Err(format!(
                "{}: nvcc failed to compile it ({status}); see its output above",
                file.display()
            ));
        }
        Ok(())
    }

    /// Locates the compiler: `NVCC`, otherwise that of the toolkit at `CUDA_HOME` or `CUDA_PATH`, otherwise that in `PATH`.
    fn nvcc() -> Result<PathBuf, String> {
        for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
            println!("cargo:rerun-if-env-changed={variable}");
        }
        if let Some(nvcc) = env::var_os("NVCC") {
            return Ok(nvcc.into());
        }
        let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
        let homes = homes.map(|home| Path::new(&home).join("bin"));
        let path = env::var_os("PATH").unwrap_or_default();
        let mut found = homes.chain(env::split_paths(&path)).map(|folder| folder.join("nvcc"));
        found.find(|nvcc| nvcc.is_file()).ok_or_else(|| {
            "the feature cuda needs NVIDIA's compiler: there is no nvcc in $NVCC, $CUDA_HOME/bin, $CUDA_PATH/bin or $PATH; \
             install it with: settings=$(scripts/cuda_toolkit.sh ~/cuda) && eval \"$settings\""
                .into()
        })
    }
}
