#!/usr/bin/env bash
# Installs CUDA's compiler and cuBLAS from PyPI, for building and running with CUDA without an installed toolkit, and
# prints the variables to export:
#
#     settings=$(scripts/cuda_toolkit.sh FOLDER) && eval "$settings" && cargo build --release --features cuda
#
# Without the variable in between, the build would go on after a failed installation: `eval` of nothing succeeds.
# Building needs nvcc and a C++ compiler, but no GPU and no driver; the program loads driver and cuBLAS on first use of a
# GPU. PYTHON names the Python for the virtual environment in FOLDER. About 0.9 GB. The 12.x wheels have no nvcc.
set -euo pipefail
folder=${1:?name the folder to install to, as: scripts/cuda_toolkit.sh ~/cuda}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

{
    [ -x "$folder/bin/pip" ] || "${PYTHON:-python3}" -m venv "$folder"
    "$folder/bin/pip" install --quiet \
        nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-cccl==13.0.85 \
        nvidia-cuda-runtime==13.0.96 nvidia-cublas==13.0.2.14
    root=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia/cu13
    # The wheels contain libraries under versioned names only; some programs look for unversioned names, or in lib64.
    for library in "$root"/lib/*.so.*; do
        ln -sf "$(basename "$library")" "${library%%.so.*}.so"
    done
    ln -sfn lib "$root/lib64"
    "$root/bin/nvcc" --version | tail -n 2
} >&2

echo "export CUDA_HOME='$root' CUDA_PATH='$root' NVCC='$root/bin/nvcc' PATH='$root/bin':\"\$PATH\""
echo "export LD_LIBRARY_PATH='$root/lib'\"\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}\""
