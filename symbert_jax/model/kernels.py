"""The kernels that compute attention, softmax(q . k / sqrt(Q)) v, and the choice between them.

    xla     plain JAX, on every platform; keeps the probabilities in memory
    short   attention of `short`, on TPUs, for rows that fit in the memory of a core
    splash  splash attention of JAX's Pallas, on TPUs; without attention dropout
    cudnn   flash attention of cuDNN, on NVIDIA GPUs; without attention dropout
    triton  flash attention of `triton`, on NVIDIA GPUs

`segments` holds a number per token, from 1: a token sees the tokens of its own segment. Padding has 0: it sees segment
1, and no token sees it. `segments=None` means that every token sees all tokens. With a `window`, a token sees only the
tokens in it; see `windows`. What a token computes that sees no token is finite, but differs between kernels; so does
what padding computes whose scores are all very low.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractDevice, reshard
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from symbert_jax.batch import Array as AnyArray
from symbert_jax.chips import KINDS
from symbert_jax.config import ModelConfig
from symbert_jax.errors import UserError
from symbert_jax.model import random_bits
from symbert_jax.model.gpu_forms import einsum_in_float32
from symbert_jax.model.layers import dropout
from symbert_jax.model.windows import in_window
from symbert_jax.sharding import device, spec

if TYPE_CHECKING:
    from symbert_jax.model.triton import Tiling

Queries = Float[Array, "B T N Q"]
Keys = Float[Array, "B S N Q"]
Values = Float[Array, "B S N H"]
Mixed = Float[Array, "B T N H"]
Segments = Int[AnyArray, "B S"] | None

FUSED = ("short", "splash", "cudnn", "triton")  # the faster ones of a platform come first
# Tokens in the longest row of short, by chip. A core of a v4 has 16 MiB of VMEM, the others have at least 64.
LONGEST_SHORT = {"v4": 2048, "v5e": 8192, "v5p": 8192, "v6e": 8192}
SMALLEST_BLOCK = 128  # tokens in the smallest block of short and splash
# Tokens in the largest block of splash. Larger blocks are faster: by the TPU compiler's schedule, a head of 1,024
# tokens takes, forward and backward, 81, 37, 21 and 16 thousand cycles of a v5e with blocks of 128, 256, 512 and 1,024,
# and 13 and 10 thousand cycles of a v6e with blocks of 512 and 1,024. Blocks of 2,048 do not fit the memory of a core.
LARGEST_BLOCK = 1024
LARGEST_LOCAL_BLOCK = 512  # the same in local layers: of smaller blocks, more are outside every window
TRITON_MULTIPLE = 64  # a row of `triton` has a multiple of this number of tokens
TRITON_WIDTHS = (32, 64, 128)  # the widths of heads that `triton` is tested with
# Parts of the names of GPUs that the fused kernels do not run on.
UNSUPPORTED_GPUS = ("Tesla", "Quadro", "GeForce GTX", "GeForce RTX 20", "TITAN", "AMD")


def attend(
    model: ModelConfig,
    q: Queries,
    k: Keys,
    v: Values,
    segments: Segments,
    key: PRNGKeyArray | None,
    window: int = 0,
    is_symmetric: bool = False,
) -> Mixed:
    """Computes attention with the kernel that `choose` returns; `key` draws attention dropout (None: off).

    is_symmetric: the keys are the queries, which the kernel `short` makes use of.
    """
    rate = model.attention_dropout
    match choose(model, device(), q.shape[1], k.shape[1]):
        case "short":
            return short(q, k, v, segments, rate, key, window, is_symmetric, interpret=device().platform != "tpu")
        case "splash":
            return splash(q, k, v, segments, window, interpret=device().platform != "tpu")
        case "cudnn":
            return cudnn(q, k, v, segments, window)
        case "triton":
            return triton(q, k, v, segments, rate, key, window, interpret=device().platform != "gpu")
        case _:
            return xla(q, k, v, segments, rate, key, window)


def choose(model: ModelConfig, device: AbstractDevice, num_queries: int, num_keys: int) -> str:
    """Returns the fused kernel that `model.kernel` allows and that has no `problems`, otherwise xla.

    The fused kernels need as many queries as keys.
    """
    allowed = FUSED if model.kernel == "auto" else (model.kernel,)
    for kernel in allowed:
        if num_queries == num_keys and not any(problems(kernel, model, device, num_keys)):
            return kernel
    return "xla"


def check(model: ModelConfig, device: AbstractDevice) -> None:
    """Raises the first of the `problems` of `model.kernel` on `device`, if there is one."""
    for problem in problems(model.kernel, model, device, model.length):
        raise problem


def problems(kernel: str, model: ModelConfig, device: AbstractDevice, length: int) -> Iterator[UserError]:
    """Yields every reason why `kernel` cannot compute the attention of `model` at `length` tokens on `device`."""

    def problem(found: str, wanted: str) -> UserError:
        hint = "model.kernel=auto takes the fastest that works"
        return UserError("model.kernel", f"{kernel!r} with {found}", wanted, hint)

    if kernel not in FUSED:
        return
    head_width = model.dim // model.heads
    if model.attention_dropout > 0 and kernel not in ("short", "triton"):
        yield problem(f"model.attention_dropout={model.attention_dropout}", "0: this kernel has no dropout")
    if model.key_dim not in (0, head_width) and kernel != "short":
        yield problem(f"model.key_dim={model.key_dim}", f"0 or {head_width}: here keys are as wide as a head")
    if kernel in ("short", "splash"):
        if device.platform != "tpu":
            yield problem(f"a {device.platform}", "a TPU")
        if length % SMALLEST_BLOCK:
            yield problem(f"{length} tokens", f"a multiple of {SMALLEST_BLOCK} tokens")
        longest = LONGEST_SHORT.get(KINDS.get(device.device_kind, ""), min(LONGEST_SHORT.values()))
        if kernel == "short" and length > longest:
            yield problem(f"{length} tokens", f"at most {longest} tokens")
    if kernel in ("cudnn", "triton"):
        if device.platform != "gpu":
            yield problem(f"a {device.platform}", "an NVIDIA GPU")
        if any(name in device.device_kind for name in UNSUPPORTED_GPUS):
            yield problem(device.device_kind, "an NVIDIA GPU of the Ampere generation or later")
    if kernel == "cudnn":
        if length % 2:
            yield problem(f"{length} tokens", "an even number of tokens")
        if model.dtype != "bfloat16":
            yield problem(f"model.dtype={model.dtype}", "bfloat16")
        if head_width % 8 or head_width > 128:
            yield problem(f"heads of width {head_width}", "a multiple of 8 up to 128")
    if kernel == "triton":
        if length % TRITON_MULTIPLE:
            yield problem(f"{length} tokens", f"a multiple of {TRITON_MULTIPLE} tokens")
        if head_width not in TRITON_WIDTHS:
            yield problem(f"heads of width {head_width}", "32, 64 or 128")


def xla(
    q: Queries,
    k: Keys,
    v: Values,
    segments: Segments,
    dropout_rate: float,
    key: PRNGKeyArray | None,
    window: int = 0,
) -> Mixed:
    """Computes attention in plain JAX; `key` draws dropout of the probabilities (None: off)."""
    weights = dropout(probabilities(q, k, segments, window).astype(v.dtype), dropout_rate, key)
    return jnp.einsum("BNTS,BSNH->BTNH", weights, v, out_sharding=spec("BTNH"))


def probabilities(q: Queries, k: Keys, segments: Segments, window: int = 0) -> Float[Array, "B N T S"]:
    """Returns softmax over S of q . k / sqrt(Q), in float32."""
    logits = scores(q, k)
    if (seen := visible(segments, window, q.shape[1], k.shape[1])) is not None:
        logits = jnp.where(seen, logits, jnp.finfo(logits.dtype).min)
    return jax.nn.softmax(logits, axis=-1)


def scores(q: Queries, k: Keys) -> Float[Array, "B N T S"]:
    """Returns q . k / sqrt(Q), in float32."""
    return einsum_in_float32("BTNQ,BSNQ->BNTS", q, k) * q.shape[-1] ** -0.5


def visible(segments: Segments, window: int, num_queries: int, num_keys: int) -> Bool[Array, "#B 1 T S"] | None:
    """Returns which tokens each of the first T = `num_queries` tokens sees; None if every token sees all tokens."""
    near = in_window(window, num_queries, num_keys)[None, None] if window else None
    if segments is None:
        return near
    seen = (jnp.maximum(segments[:, :num_queries, None], 1) == segments[:, None, :])[:, None]
    return seen if near is None else seen & near


def block_size(length: int, window: int = 0) -> int:
    """Returns the largest block size of splash that divides `length`."""
    limit = min(LARGEST_LOCAL_BLOCK if window else LARGEST_BLOCK, length)
    sizes = range(SMALLEST_BLOCK, limit + 1, SMALLEST_BLOCK)
    return max(size for size in sizes if length % size == 0)


def short(
    q: Queries,
    k: Keys,
    v: Values,
    segments: Segments,
    dropout_rate: float,
    key: PRNGKeyArray | None,
    window: int = 0,
    is_symmetric: bool = False,
    *,
    interpret: bool,
) -> Mixed:
    """Computes attention with the kernel of `short`; T = S is a multiple of 128.

    key: draws dropout of the probabilities, with the same mask as in `xla` (None: off).
    is_symmetric: the keys are the queries.
    interpret: runs the kernel without a TPU, slowly.
    """
    from symbert_jax.model import short as module  # imports Pallas; few programs need it

    cores = device().num_cores or 1

    def run(q: Array, k: Array, v: Array, segments: Array | None, states: Array | None) -> Array:
        return module.attention(q, k, v, segments, states, dropout_rate, window, is_symmetric, cores, interpret)

    return _on_each_device(run, q, k, v, segments, _dropout_states(key, dropout_rate, q.shape))


def splash(q: Queries, k: Queries, v: Queries, segments: Segments, window: int = 0, *, interpret: bool) -> Queries:
    """Computes splash attention; T = S is a multiple of 128. `interpret` runs the kernel without a TPU, slowly."""
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas  # takes half a second; few programs need it

    length, width = q.shape[1], q.shape[-1]
    size = block_size(length, window)
    shape, side = (length, length), window // 2
    head_mask = pallas.LocalMask(shape, (side, side), offset=0) if window else pallas.FullMask(shape)
    blocks = pallas.BlockSizes(
        block_q=size,
        block_kv=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        use_fused_bwd_kernel=True,
        q_layout=pallas.QKVLayout.SEQ_MINOR,
        k_layout=pallas.QKVLayout.SEQ_MINOR,
        v_layout=pallas.QKVLayout.SEQ_MINOR,
    )

    def run(q: Array, k: Array, v: Array, segments: Array | None) -> Array:
        mask = pallas.MultiHeadMask([head_mask] * q.shape[2])
        kernel = pallas.make_splash_mha_single_device(mask, block_sizes=blocks, interpret=interpret)
        ids = None if segments is None else pallas.SegmentIds(jnp.maximum(segments, 1), segments)
        q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * width**-0.5, k, v))
        return jnp.swapaxes(jax.vmap(kernel)(q, k, v, ids), 1, 2)

    return _on_each_device(run, q, k, v, segments)


def cudnn(q: Queries, k: Queries, v: Queries, segments: Segments, window: int = 0) -> Queries:
    """Computes attention with cuDNN, which runs only on NVIDIA GPUs.

    A window is a mask, hence no faster: the sliding window of cuDNN is for causal attention.
    """

    def run(q: Array, k: Array, v: Array, segments: Array | None) -> Array:
        mask = visible(segments, window, q.shape[1], k.shape[1])
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")

    return _on_each_device(run, q, k, v, segments)


def triton(
    q: Queries,
    k: Queries,
    v: Queries,
    segments: Segments,
    dropout_rate: float,
    key: PRNGKeyArray | None,
    window: int = 0,
    *,
    interpret: bool,
    tiling: "Tiling | None" = None,
) -> Queries:
    """Computes attention with the kernel of `triton`; T = S is a multiple of 64.

    key: draws dropout of the probabilities, with the same mask as in `xla` (None: off).
    interpret: runs the kernel without a GPU, slowly.
    tiling: replaces the tiles that are known to be fast.
    """
    from symbert_jax.model import triton as module  # imports Pallas; few programs need it

    tiling = tiling or module.choose_tiling(max(q.shape[-1], v.shape[-1]), q.dtype)

    def run(q: Array, k: Array, v: Array, segments: Array | None, states: Array | None) -> Array:
        return module.attention(q, k, v, segments, states, dropout_rate, window, tiling, interpret)

    return _on_each_device(run, q, k, v, segments, _dropout_states(key, dropout_rate, q.shape))


def _dropout_states(
    key: PRNGKeyArray | None, dropout_rate: float, shape: tuple[int, ...]
) -> UInt32[Array, "B N 2"] | None:
    """Returns, for each head, the counter of the first state of `random_bits` and the step to the next counter.

    Without dropout, returns None.
    """
    if key is None or dropout_rate == 0:
        return None
    batch, length, heads, _ = shape
    seed, gamma = random_bits.seed_and_gamma(key)
    states = length * random_bits.states_per_row(length)
    first = random_bits.counters(seed, gamma * np.uint32(states % 2**32), (batch, heads), spec("BN"))
    return jnp.stack([first, jnp.broadcast_to(gamma, first.shape, out_sharding=spec("BN"))], axis=-1)


def _on_each_device(
    run: Callable[..., Array], q: Queries, k: Keys, v: Values, segments: Segments, *per_head: Array | None
) -> Mixed:
    """Runs a kernel on the rows and heads of each device, without communication between devices.

    per_head: further arguments of the kernel, with leading dimensions B and N.
    """
    array_spec, segments_spec = spec("BTNH"), spec("BS")
    in_specs = (*[array_spec] * 3, segments_spec, *[spec("BN")] * len(per_head))
    sharded = jax.shard_map(run, in_specs=in_specs, out_specs=array_spec, check_vma=False)
    return sharded(q, k, v, None if segments is None else reshard(segments, segments_spec), *per_head)
