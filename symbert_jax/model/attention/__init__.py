"""Self-attention and its variants, each a class.

The score of query token t for key token s, per head, with q = x Wq + bq (paper, equations 3 to 5):

    standard   q_t . (x_s Wk + bk) / sqrt(Q), also with Wq = I
    symmetric  q_t . q_s / sqrt(Q)
    pairwise   q_t^T P q_s / sqrt(Q), with P a full matrix, a diagonal one, or I plus one of low rank
    uniform    0, a control: every token averages all others

Rotary positions rotate q and k = P q afterwards: q_t^T R_t^T R_s P q_s, where R_t is the rotation of position t.

Q, the width of queries and keys, is the head width H unless `model.key_dim` says otherwise.

A class holds all that is special about its variant: parameters, their initial values and keys for the model, the number
of matrix products for `flops.py`, for `export` a description and the weights as standard attention and in the format of
the paper's code, and for `import --attention` the best approximation of a standard score. A new variant is a class,
an entry in `variants` and a value of a field in `config/schema.py`.

`model.score_gain` asks for a standard deviation of the first logits, in multiples of that of standard attention with
the same `model.initializer_range`. It is the standard deviation over the draws of the parameters, for two tokens whose
inputs are uncorrelated. The matrix that comes last in the score gets the factor: Wk or P where they are free, otherwise
Wq its square root.

Reading order: `base`; `standard`; `symmetric`; `pairwise`; `variants`, the choice by config; `scores`, the same scores
in other forms. `kernels`, beside this package, computes attention from queries, keys and values.
"""

from symbert_jax.model.attention.base import SelfAttention
from symbert_jax.model.attention.scores import symmetry, to_papers, to_standard
from symbert_jax.model.attention.symmetric import TiedAttention
from symbert_jax.model.attention.variants import find_variant

__all__ = ["SelfAttention", "TiedAttention", "find_variant", "symmetry", "to_papers", "to_standard"]
