"""A `config.json` of Hugging Face's BERT, or of the paper's `plpi/bert`, and our `Model`."""

from collections.abc import Mapping, Sequence
from typing import Any

from symbert_jax.config import Model
from symbert_jax.errors import UserError, did_you_mean
from symbert_jax.model.encoder import TOKEN_TYPES
from symbert_jax.model.layers import LayerNorm

AFFINITY = {"standard": "vanilla", "symmetric": "symmetric", "pairwise": "pairwise"}  # ours, the paper's
HUGGING_FACE, PLPI = "bert", "plpi/bert"  # the names of the architecture, `model_type`

_FIELDS = {
    "vocab_size": "vocab_size",
    "layers": "num_hidden_layers",
    "dim": "hidden_size",
    "heads": "num_attention_heads",
    "mlp_dim": "intermediate_size",
    "length": "max_position_embeddings",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
_CONSTANT: dict[str, Any] = {  # what BERT leaves open and our model does not
    "hidden_act": "gelu",
    "layer_norm_eps": LayerNorm.epsilon,
    "type_vocab_size": TOKEN_TYPES,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "tie_word_embeddings": True,
}


def to_model(config: Mapping[str, Any], where: str) -> Model:
    """The model of a parsed `config.json`; activations are float32.

    where: names the file in errors.

    Raises:
      UserError: it is no BERT, or one that our model does not cover.
    """
    if (kind := config.get("model_type")) not in (HUGGING_FACE, PLPI):
        raise UserError(where, f"model_type {kind!r}", f"{HUGGING_FACE} or {PLPI}")
    for field, value in _CONSTANT.items():
        if (found := config.get(field, value)) != value:
            raise UserError(where, f"{field} {found!r}", f"{value!r}, the only one that this model has")
    if missing := [name for name in _FIELDS.values() if name not in config]:
        raise UserError(where, f"no {', '.join(missing)}", "every size of the model")
    theirs = config.get("plpi_affinity_function", "vanilla") if kind == PLPI else "vanilla"
    attentions = {name: ours for ours, name in AFFINITY.items()}
    if theirs not in attentions:
        raise UserError(where, f"plpi_affinity_function {theirs!r}", "a known one", did_you_mean(theirs, attentions))
    fields = {ours: config[name] for ours, name in _FIELDS.items()}
    return Model(attention=attentions[theirs], dtype="float32", **fields)


def to_config(model: Model, kind: str, classes: Sequence[str] | None, pad: int, dtype: str) -> dict[str, Any]:
    """A `config.json` for the masked-language model, or for the classifier of `classes` (none: a regression)."""
    config = {
        "architectures": ["BertForMaskedLM" if classes is None else "BertForSequenceClassification"],
        "model_type": kind,
        **{name: getattr(model, ours) for ours, name in _FIELDS.items()},
        **_CONSTANT,
        "initializer_range": 0.02,
        "pad_token_id": pad,
        "torch_dtype": dtype,
    }
    if kind == PLPI:
        config["plpi_affinity_function"] = AFFINITY[model.attention]
    if classes is not None:
        names = list(classes) or ["score"]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
        config["problem_type"] = "single_label_classification" if classes else "regression"
    return config
