"""The model card of an exported folder: what the model is, where it comes from, and how it was made standard."""

from collections.abc import Mapping

from symbert_jax.config import ModelConfig

_FOLDED = {
    "standard": "Its attention is the standard one; nothing was folded.",
    "symmetric": "Its attention is symmetric, score q·q: here the key weights equal the query weights.",
    "pairwise": "Its attention is pairwise, score qᵀPq: here, per head, Wk = Wq Pᵀ and bk = P bq.",
}
_KEPT = "It is in the format of the paper's own code (`plpi/bert`) and keeps its attention, {}."
_PAPER = (
    "[Symmetric Dot-Product Attention for Efficient Training of BERT Language Models](https://arxiv.org/abs/2406.06366)"
)


def card(model: ModelConfig, facts: Mapping[str, str], folded: bool, masked: bool, command: str) -> str:
    """Markdown with the metadata that the Hugging Face hub reads.

    facts: lines of the table besides the sizes of the model. folded: whether every attention became standard.
    masked: whether it predicts masked words, or classes. command: what wrote the folder.
    """
    sizes = (
        f"{model.layers} layers of {model.dim}, {model.heads} heads, {model.length} tokens, {model.vocab_size:,} words"
    )
    rows = {"attention it was trained with": model.attention, "size": sizes, **facts}
    task = "fill-mask" if masked else "text-classification"
    how = _FOLDED[model.attention] if folded else _KEPT.format(model.attention)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
library_name: transformers
pipeline_tag: {task}
tags: [bert, {task}, symbert_jax, {model.attention}-attention]
---

# BERT with {model.attention} attention

Trained with symbert_jax after {_PAPER}. {how}{_SAME if folded else ""}

| | |
| --- | --- |
{table}

Written by `{command}`.
"""


_SAME = " The scores are the same, so every program that loads BERT runs it without custom code."
