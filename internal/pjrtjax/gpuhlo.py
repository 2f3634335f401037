"""Compiles a StableHLO file for an NVIDIA H100 GPU and prints the operations of the compiled program.

The script needs no GPU.

    pip install jax jaxlib jax-cuda13-plugin jax-cuda13-pjrt nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-runtime
    cp /tmp/plugin/pjrt_c_api_jaxcpu_plugin.so /tmp/cuda/pjrt_c_api_cuda_plugin.so
    PJRT_JAX_DUMP=/tmp/dump ./spt bench --suite --device xla:/tmp/cuda/pjrt_c_api_cuda_plugin.so --model base \\
        --batch 64 --only 'timing spt-lora$' --python none
    XLA_FLAGS="--xla_gpu_enable_triton_gemm=false --xla_gpu_dot_merger_threshold_mb=0 --xla_gpu_cuda_data_dir=DIR" \\
        python3 gpuhlo.py /tmp/dump/program*.mlir step.hlo

The copy of the plug-in has "cuda" in its file name, so spt treats it as a CUDA plug-in and builds
programs with the attention of cuDNN. The plug-in cannot run these programs, but it writes them to
PJRT_JAX_DUMP before it fails. DIR is the folder nvidia/cu13 in the folder of the Python packages.

The compiled program is the program that a GPU would run, except for the selection of cuBLAS
algorithms, which needs the GPU. The printed bytes are the sizes of the inputs and outputs of the
operations.
"""
import collections
import glob
import os
import re
import sys
import time

os.environ["JAX_PLATFORMS"] = "cpu"

import jax_plugins.xla_cuda13
import numpy as np
from jax._src.interpreters import mlir
from jax._src.lib import _jax, xla_client
from jax._src.lib.mlir import ir

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 4 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


def compile_for_gpu(path):
    """Compiles the StableHLO file for an H100 and returns the optimised HLO as text."""
    library = glob.glob(os.path.join(os.path.dirname(jax_plugins.xla_cuda13.__file__), "xla_cuda_plugin.so"))[0]
    api = xla_client.load_pjrt_plugin_dynamically("cuda", library)
    xla_client.initialize_pjrt_plugin("cuda")
    devices = _jax.get_c_api_topology(api, "h100", {"target_config": H100, "topology": "1x1x1"})._make_compile_only_devices()
    options = xla_client.CompileOptions()
    options.device_assignment = xla_client.DeviceAssignment.create(np.array([[0]]))
    with mlir.make_ir_context(), open(path, "rb") as f:
        start = time.time()
        program = devices[0].client.compile(ir.Module.parse(f.read()), xla_client.DeviceList(tuple(devices)), options)
    print(f"compiled in {time.time() - start:.1f} s, {program.get_compiled_memory_stats().temp_size_in_bytes / 1e9:.2f} GB of temporaries")
    return program.hlo_modules()[0].to_string()


def size(shape):
    """Returns the size in bytes of a shape, or of all shapes of a tuple."""
    total = 0
    for dtype, dims in re.findall(r"(pred|bf16|[sfu]\d+)\[([\d,]*)\]", shape):
        total += SIZES[dtype] * int(np.prod([int(d) for d in dims.split(",") if d], dtype=np.int64))
    return total


def summary(text):
    """Prints the number and the bytes of the operations of each kind.

    It reads only the longest computation of the program: the main computation or the body of its loop.
    """
    body = max(re.split(r"\n(?=%|ENTRY)", text), key=len)
    shapes, count, moved = {}, collections.Counter(), collections.Counter()
    for line in body.split("\n"):
        m = re.match(r"\s+(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$", line)
        if not m:
            continue
        name, shape, op, rest = m.groups()
        shapes[name] = shape
        if op in ("parameter", "bitcast", "get-tuple-element", "tuple", "constant"):
            continue
        kind = re.sub(r"[.\d]+$", "", name)
        for pattern in (r'custom_call_target="([^"]+)"', r'"kind":"([^"]+)"', r'"epilogue":"(\w+)"'):
            if found := re.search(pattern, line):
                kind += " " + found.group(1)
        count[kind] += 1
        moved[kind] += size(shape) + sum(size(shapes.get(a, "")) for a in re.findall(r"%([\w.\-]+)", rest.split("), ")[0]))
    for kind, total in moved.most_common():
        print(f"{count[kind]:5d}  {total / 1e9:7.2f} GB  {kind}")
    print(f"{sum(count.values()):5d}  {sum(moved.values()) / 1e9:7.2f} GB")


hlo = compile_for_gpu(sys.argv[1])
if len(sys.argv) > 2:
    with open(sys.argv[2], "w") as f:
        f.write(hlo)
summary(hlo)
