"""The model card of an exported folder: the model, its origin, and how its attention was made standard."""

from collections.abc import Mapping

from symbert_jax.config import ModelConfig
from symbert_jax.model.attention import find_variant

_PAPER = (
    "[Symmetric Dot-Product Attention for Efficient Training of BERT Language Models](https://arxiv.org/abs/2406.06366)"
)
_FOLDED = "The scores are unchanged, so every program that loads {} runs this model without custom code."
_KEPT = "The folder is in the format of the paper's own code (`plpi/bert`) and keeps this attention."


def card(
    model: ModelConfig, title: str, facts: Mapping[str, str], is_folded: bool, is_masked_lm: bool, command: str
) -> str:
    """Returns a model card in Markdown, with the metadata that the Hugging Face hub reads.

    Args:
      model: the model as it was trained.
      title: the name of the architecture, such as BERT.
      facts: more rows of the table in the card: values by titles.
      is_folded: whether the attention was made standard.
      is_masked_lm: whether the model predicts masked tokens; if not, it is a classifier or a regression.
      command: the command that wrote the folder.
    """
    sizes = (
        f"{model.layers} layers of {model.dim}, {model.heads} heads, "
        f"{model.length} tokens per row, {model.vocab_size:,} token ids"
    )
    rows = {"attention it was trained with": model.attention, "size": sizes, **facts}
    task = "fill-mask" if is_masked_lm else "text-classification"
    variant = find_variant(model)
    attention = f"Its attention is {variant.description}"
    if is_folded:
        padding = ", and shorter queries and keys are padded with zeros" if model.key_dim else ""
        attention += f"; {variant.folding}{padding}. {_FOLDED.format(title)}"
    else:
        attention += f". {_KEPT}"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
library_name: transformers
pipeline_tag: {task}
tags: [{title.lower()}, {task}, symbert_jax, {model.attention}-attention]
---

# {title} with {model.attention} attention

Trained with symbert_jax after {_PAPER}. {attention}

| | |
| --- | --- |
{table}

Written by `{command}`.
"""
