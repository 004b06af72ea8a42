"""The programs that compute attention, softmax(q . k / sqrt(H)) v, and which of them runs where.

    xla     plain JAX, everywhere; alone in having dropout of the probabilities, which it keeps in memory
    splash  splash attention of JAX's Pallas, on TPUs
    cudnn   flash attention of NVIDIA's cuDNN

Segments are one number a token, from 1: tokens see those of their own. 0 is padding, which sees segment 1 and is
seen by none. None is one segment for all.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice, reshard
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from symbert_jax.batch import Array as AnyArray
from symbert_jax.config import ModelConfig
from symbert_jax.errors import UserError
from symbert_jax.model.layers import dropout
from symbert_jax.sharding import device, spec

Queries = Float[Array, "B T N H"]
Keys = Float[Array, "B S N H"]
Segments = Int[AnyArray, "B S"] | None

FUSED = ("splash", "cudnn")  # each the fastest on its platform
LEAST_BLOCK = 128  # tokens that splash takes at a time, at the least
# And at the most: the larger a block the better, on each chip. Thousand cycles a head of 1,024 tokens, forward and
# backward, by the TPU compiler's schedule, with blocks of 128, 256, 512 and 1,024: v5e 81, 37, 21, 16; v6e of 512 and
# 1,024: 13, 10. Blocks of 2,048 would not fit a core's memory.
BLOCK = 1024
BEFORE_AMPERE = ("Tesla", "Quadro", "GeForce GTX", "GeForce RTX 20", "TITAN", "AMD")  # in names of GPUs


def attend(model: ModelConfig, q: Queries, k: Keys, v: Keys, segments: Segments, key: PRNGKeyArray | None) -> Queries:
    """Mixes `v` by the kernel that `model` has on the mesh; `key` draws dropout of the probabilities (None: off)."""
    match choose(model, device(), q.shape[1], k.shape[1]):
        case "splash":
            return splash(q, k, v, segments, interpret=device().platform != "tpu")
        case "cudnn":
            return cudnn(q, k, v, segments)
        case _:
            return xla(q, k, v, segments, model.attention_dropout, key)


def choose(model: ModelConfig, device: AbstractDevice, queries: int, keys: int) -> str:
    """The kernel of attention from so many tokens to so many: xla where none that `model.kernel` allows can do it."""
    allowed = FUSED if model.kernel == "auto" else (model.kernel,)
    able = [kernel for kernel in allowed if queries == keys and not _obstacle(kernel, model, device, keys)]
    return able[0] if able else "xla"


def check(model: ModelConfig, device: AbstractDevice) -> None:
    """Raises `UserError` where `model.kernel` asks for what cannot be on `device`."""
    if obstacle := _obstacle(model.kernel, model, device, model.length):
        found, wanted = obstacle
        hint = "model.kernel=auto takes the fastest that can be"
        raise UserError("model.kernel", f"{model.kernel!r} with {found}", wanted, hint)


def _obstacle(kernel: str, model: ModelConfig, device: AbstractDevice, length: int) -> tuple[str, str] | None:
    """What keeps `kernel` from `model` at `length` tokens, and what it wants instead; None where nothing does."""
    head = model.dim // model.heads
    demands = [(model.attention_dropout == 0, f"model.attention_dropout={model.attention_dropout}", "0: it has none")]
    match kernel:
        case "splash":
            demands += [
                (device.platform == "tpu", f"a {device.platform}", "a TPU"),
                (length % LEAST_BLOCK == 0, f"{length} tokens", f"a multiple of {LEAST_BLOCK} of them"),
            ]
        case "cudnn":
            old = any(name in device.device_kind for name in BEFORE_AMPERE)
            demands += [
                (device.platform == "gpu", f"a {device.platform}", "an NVIDIA GPU"),
                (not old, device.device_kind, "an NVIDIA GPU of the generation of Ampere or later"),
                (length % 2 == 0, f"{length} tokens", "an even number of them"),
                (model.dtype == "bfloat16", f"model.dtype={model.dtype}", "bfloat16"),
                (head % 8 == 0 and head <= 128, f"heads of width {head}", "a multiple of 8 up to 128"),
            ]
        case _:
            return None
    return next(((found, wanted) for met, found, wanted in demands if not met), None)


def xla(q: Queries, k: Keys, v: Keys, segments: Segments, rate: float, key: PRNGKeyArray | None) -> Queries:
    weights = dropout(probabilities(q, k, segments).astype(v.dtype), rate, key)
    return jnp.einsum("BNTS,BSNH->BTNH", weights, v, out_sharding=spec("BTNH"))


def probabilities(q: Queries, k: Keys, segments: Segments) -> Float[Array, "B N T S"]:
    """softmax over S of q . k / sqrt(H), in float32."""
    scores = jnp.einsum("BTNH,BSNH->BNTS", q, k, preferred_element_type=jnp.float32, out_sharding=spec("BNTS"))
    scores *= q.shape[-1] ** -0.5
    if segments is not None:
        scores = jnp.where(visible(segments, q.shape[1])[:, None], scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores, axis=-1)


def visible(segments: Int[AnyArray, "B S"], queries: int) -> Bool[Array, "B T S"]:
    """Which tokens each of the first T = `queries` sees."""
    return jnp.maximum(segments[:, :queries, None], 1) == segments[:, None, :]


def block(length: int) -> int:
    """How many of `length` tokens splash takes at a time."""
    return max(side for side in range(LEAST_BLOCK, min(BLOCK, length) + 1, LEAST_BLOCK) if length % side == 0)


def splash(q: Queries, k: Queries, v: Queries, segments: Segments, *, interpret: bool) -> Queries:
    """T is a multiple of 128. `interpret` runs the kernel where there is no TPU, slowly."""
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas  # half a second, which others need not wait

    length, width = q.shape[1], q.shape[-1]
    side = block(length)
    blocks = pallas.BlockSizes(
        block_q=side,
        block_kv=side,
        block_q_dkv=side,
        block_kv_dkv=side,
        use_fused_bwd_kernel=True,
        q_layout=pallas.QKVLayout.SEQ_MINOR,
        k_layout=pallas.QKVLayout.SEQ_MINOR,
        v_layout=pallas.QKVLayout.SEQ_MINOR,
    )

    def run(q: Array, k: Array, v: Array, segments: Array | None) -> Array:
        mask = pallas.MultiHeadMask([pallas.FullMask((length, length))] * q.shape[2])
        kernel = pallas.make_splash_mha_single_device(mask, block_sizes=blocks, interpret=interpret)
        ids = None if segments is None else pallas.SegmentIds(jnp.maximum(segments, 1), segments)
        q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * width**-0.5, k, v))
        return jnp.swapaxes(jax.vmap(kernel)(q, k, v, ids), 1, 2)

    return _on_each_device(run, q, k, v, segments)


def cudnn(q: Queries, k: Queries, v: Queries, segments: Segments) -> Queries:
    def run(q: Array, k: Array, v: Array, segments: Array | None) -> Array:
        mask = None if segments is None else visible(segments, q.shape[1])[:, None]
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")

    return _on_each_device(run, q, k, v, segments)


def _on_each_device(run: Callable[..., Array], q: Queries, k: Queries, v: Queries, segments: Segments) -> Queries:
    """`run` on the rows and heads of each device, which need nothing of those of others."""
    heads, rows = spec("BTNH"), spec("BS")
    split = jax.shard_map(run, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False)
    return split(q, k, v, None if segments is None else reshard(segments, rows))
