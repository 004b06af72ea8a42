"""Compiler flags by name of a chip, for `--xla_preset`: off by default; flags that the user sets take precedence.

Those that are documented at all are so in the JAX documentation ("XLA compiler flags") and in
NVIDIA's JAX-Toolbox ("Tips for High-Performance LLMs with JAX and XLA"). None was measured here.
"""

import os
from collections.abc import MutableMapping

from symbert_jax.errors import UserError, did_you_mean

Preset = tuple[str, tuple[str, ...]]  # the variable that its compiler reads, and flags

# MaxText, MaxText/configs/v5e/llama2_7b.sh; for all-reduce, benchmarks/xla_flags_library.py (CF_FOR_ALL_REDUCE)
_OVERLAP = (
    "--xla_enable_async_all_gather=true",  # FSDP's gathers start early and finish late …
    "--xla_enable_async_all_reduce=true",  # … and so do sums of gradients
    "--xla_tpu_enable_async_collective_fusion=true",  # what is computed meanwhile is fused with the transfer
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",  # for gathers
    "--xla_tpu_enable_async_collective_fusion_fuse_all_reduce=true",  # for sums
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",  # one transfer may span several fusions
    "--xla_tpu_overlap_compute_collective_tc=true",  # on the same TensorCore
)
# the same files; they act where several slices share a run
_SLICES = (
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true",  # sums between slices overlap the backward pass
    "--xla_tpu_data_parallel_opt_different_sized_ops=true",  # whatever their sizes; takes memory
)

PRESETS: dict[str, Preset] = {
    # AXLearn, axlearn/common/compiler_options.py: on by default only since v5
    "v4": (
        "LIBTPU_INIT_ARGS",
        (
            "--xla_enable_async_all_gather=true",  # as above
            "--xla_enable_async_collective_permute=true",  # likewise exchanges between neighbours
        ),
    ),
    "v5e": ("LIBTPU_INIT_ARGS", _OVERLAP + _SLICES),
    # MaxText, MaxText/configs/v5p/llama2_7b.sh
    "v5p": (
        "LIBTPU_INIT_ARGS",
        (
            *_OVERLAP,
            *_SLICES,
            "--xla_enable_async_collective_permute=true",
            "--xla_tpu_megacore_fusion_allow_ags=false",  # gathers are left to the overlap above
        ),
    ),
    # MaxText, benchmarks/xla_flags_library.py (_DENSE_VMEM_LIMIT); AXLearn has the same number
    "v6e": (
        "LIBTPU_INIT_ARGS",
        (
            *_OVERLAP,
            *_SLICES,
            "--xla_tpu_scoped_vmem_limit_kib=98304",  # larger fusions; the rest of VMEM prefetches the next
        ),
    ),
    # NVIDIA, JAX-Toolbox, GPU performance
    "h100": (
        "XLA_FLAGS",
        (
            "--xla_gpu_enable_latency_hiding_scheduler=true",  # moves transfers to where they overlap kernels
            "--xla_gpu_enable_triton_gemm=false",  # cuBLAS for matrix products
            "--xla_gpu_enable_pipelined_all_gather=true",  # across the steps of the scan over layers, as are …
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
