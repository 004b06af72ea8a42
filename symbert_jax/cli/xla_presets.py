"""Compiler flags by name of a chip, for `--xla_preset`. Flags that the user sets take precedence.

Most of the flags are undocumented. The others are described in the JAX documentation ("XLA compiler flags") and in
NVIDIA's JAX-Toolbox ("Tips for High-Performance LLMs with JAX and XLA"). The effect of the flags is not measured here.
"""

import os
from collections.abc import MutableMapping

from symbert_jax.errors import UserError, did_you_mean

Preset = tuple[str, tuple[str, ...]]  # the environment variable that the compiler reads, and the flags

# Source: MaxText, MaxText/configs/v5e/llama2_7b.sh; for all-reduce, benchmarks/xla_flags_library.py (CF_FOR_ALL_REDUCE)
_OVERLAP = (
    "--xla_enable_async_all_gather=true",  # FSDP's all-gathers overlap computation
    "--xla_enable_async_all_reduce=true",  # all-reduces of gradients, too, overlap computation
    "--xla_tpu_enable_async_collective_fusion=true",  # fuses the overlapping computation with the transfer
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",  # the same for all-gathers
    "--xla_tpu_enable_async_collective_fusion_fuse_all_reduce=true",  # the same for all-reduces
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",  # a transfer may overlap several fusions
    "--xla_tpu_overlap_compute_collective_tc=true",  # computation and transfers overlap on the same TensorCore
)
# Source: the same files. These flags matter only for a run on several slices.
_SLICES = (
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true",  # all-reduces between slices overlap the backward pass
    "--xla_tpu_data_parallel_opt_different_sized_ops=true",  # also those of operands of different sizes; takes memory
)

PRESETS: dict[str, Preset] = {
    # Source: AXLearn, axlearn/common/compiler_options.py. By its comment, these flags are on by default since v5.
    "v4": (
        "LIBTPU_INIT_ARGS",
        (
            "--xla_enable_async_all_gather=true",  # all-gathers overlap computation
            "--xla_enable_async_collective_permute=true",  # exchanges between neighbours, too, overlap computation
        ),
    ),
    "v5e": ("LIBTPU_INIT_ARGS", _OVERLAP + _SLICES),
    # Source: MaxText, MaxText/configs/v5p/llama2_7b.sh
    "v5p": (
        "LIBTPU_INIT_ARGS",
        (
            *_OVERLAP,
            *_SLICES,
            "--xla_enable_async_collective_permute=true",
            "--xla_tpu_megacore_fusion_allow_ags=false",  # leaves all-gathers to the flags of _OVERLAP
        ),
    ),
    # Source: MaxText, benchmarks/xla_flags_library.py (_DENSE_VMEM_LIMIT); AXLearn has the same number
    "v6e": (
        "LIBTPU_INIT_ARGS",
        (
            *_OVERLAP,
            *_SLICES,
            "--xla_tpu_scoped_vmem_limit_kib=98304",  # allows larger fusions; the rest of VMEM is for prefetching
        ),
    ),
    # Source: NVIDIA, JAX-Toolbox, GPU performance
    "h100": (
        "XLA_FLAGS",
        (
            "--xla_gpu_enable_latency_hiding_scheduler=true",  # schedules transfers so that they overlap kernels
            "--xla_gpu_enable_triton_gemm=false",  # uses cuBLAS for matrix products
            # These overlap the transfers of one layer with the computation of another, each for one kind of transfer.
            "--xla_gpu_enable_pipelined_all_gather=true",
            "--xla_gpu_enable_pipelined_reduce_scatter=true",
            "--xla_gpu_enable_pipelined_all_reduce=true",
        ),
    ),
}


def apply(name: str, environment: MutableMapping[str, str] = os.environ) -> str:
    """Sets the flags of a preset, before those of the user, which take precedence. Call before JAX starts.

    Returns:
      A line with the variable and its new value.

    Raises:
      UserError: there is no such preset.
    """
    if name not in PRESETS:
        raise UserError("xla_preset", repr(name), "a known one", did_you_mean(name, PRESETS))
    variable, flags = PRESETS[name]
    environment[variable] = " ".join([*flags, *environment.get(variable, "").split()])
    return f"XLA preset {name}: {variable}='{environment[variable]}'"
