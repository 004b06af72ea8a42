"""Self-attention with three compatibility functions: the whole difference between the three models.

The score of query token t for key token s, per head, with q = x Wq + bq (paper, equations 3 to 5):

    standard   q_t . (x_s Wk + bk) / sqrt(H)
    symmetric  q_t . q_s / sqrt(H)
    pairwise   q_t^T P q_s / sqrt(H)
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from symbert_jax.config import ModelConfig
from symbert_jax.model import kernels
from symbert_jax.model.dense import Dense
from symbert_jax.model.layers import Sizes, parameter, use
from symbert_jax.sharding import device, spec


class SelfAttention(nnx.Module):
    """Multi-head self-attention without residual and norm."""

    def __init__(self, config: ModelConfig, sizes: Sizes, rngs: nnx.Rngs):
        self.kind, self.model = config.attention, config
        self.query = Dense("D->NH", sizes, rngs)
        self.value = Dense("D->NH", sizes, rngs)
        self.output = Dense("NH->D", sizes, rngs)
        match self.kind:
            case "standard":
                self.key = Dense("D->NH", sizes, rngs)
            case "pairwise":
                self.pair = parameter(PAIR_INIT[config.pairwise_init], "NHG", sizes, rngs)

    def query_key(
        self, x: Float[Array, "B S D"], first: int | None = None
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B S N H"]]:
        """The two sides whose inner product is the score; queries of the first T = `first` tokens (None: all)."""
        q = self.query(x)
        match self.kind:
            case "standard":
                k = self.key(x)
            case "symmetric":
                k = q
            case "pairwise":
                dims, pair = "NHG", use(self.pair, q.dtype)
                if device().platform == "tpu":  # the batch dimensions of the scores, or layouts differ: 20% of a step
                    dims = "BNHG"
                    pair = jnp.broadcast_to(pair, (len(q), *pair.shape), out_sharding=spec(dims))
                k = jnp.einsum(f"BSNG,{dims}->BSNH", q, pair, out_sharding=spec("BSNH"))
        return q[:, :first], k

    @jax.named_scope("attention")
    def __call__(
        self,
        x: Float[Array, "B S D"],
        segments: kernels.Segments,
        key: PRNGKeyArray | None,
        first: int | None = None,
    ) -> Float[Array, "B T D"]:
        """Mixes the tokens of each segment (None: all are of one); `key` draws attention dropout (None: off)."""
        q, k = self.query_key(x, first)
        return self.output(kernels.attend(self.model, q, k, self.value(x), segments, key))


def _identity(key: PRNGKeyArray, shape: tuple[int, int, int], dtype: DTypeLike) -> Float[Array, "N H G"]:
    del key
    return jnp.broadcast_to(jnp.eye(shape[1], dtype=dtype), shape)


PAIR_INIT = {"normal": jax.nn.initializers.normal(1.0), "identity": _identity}
