#!/usr/bin/env bash
# Installs CUDA's compiler and libraries from PyPI, for building without a card or a driver, and prints the variables
# to export:
#
#     eval "$(scripts/cuda_toolkit.sh FOLDER)" && cargo check --workspace --features cuda
#
# PYTHON names the Python that the folder's environment is made with. About 1.2 GB. The 12.x wheels have no nvcc.
set -euo pipefail
folder=${1:?name the folder to install to, as: scripts/cuda_toolkit.sh ~/cuda}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

{
    [ -x "$folder/bin/pip" ] || "${PYTHON:-python3}" -m venv "$folder"
    "$folder/bin/pip" install --quiet \
        nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 \
        nvidia-cublas==13.0.2.14 nvidia-curand==10.4.0.35 nvidia-cuda-nvrtc==13.0.88 nvidia-cuda-cccl==13.0.85
    root=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia/cu13
    # The wheels hold libraries by their versioned names only; the linker looks for the plain ones, and some build
    # scripts for lib64.
    for library in "$root"/lib/*.so.*; do
        ln -sf "$(basename "$library")" "${library%%.so.*}.so"
    done
    ln -sfn lib "$root/lib64"
} >&2

# Kernels are compiled for this architecture; newer cards translate them.
echo "export CUDA_HOME='$root' CUDA_PATH='$root' CUDA_ROOT='$root' NVCC='$root/bin/nvcc'"
echo "export CUDA_COMPUTE_CAP=\"\${CUDA_COMPUTE_CAP:-80}\" PATH='$root/bin':\"\$PATH\""
