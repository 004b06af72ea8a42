"""Converts between our `ModelConfig` and the `config.json` of Hugging Face's BERT or of the paper's `plpi/bert`."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from symbert_jax.config import Config, ModelConfig, problems
from symbert_jax.errors import UserError, did_you_mean
from symbert_jax.model.parameters import TOKEN_TYPES

# The paper's names of attention, by ours.
AFFINITY = {"standard": "vanilla", "symmetric": "symmetric", "pairwise": "pairwise"}
HUGGING_FACE, PLPI = "bert", "plpi/bert"  # values of `model_type`

# Fields of `config.json` by fields of `ModelConfig`.
_SIZES = {
    "vocab_size": "vocab_size",
    "layers": "num_hidden_layers",
    "dim": "hidden_size",
    "heads": "num_attention_heads",
    "mlp_dim": "intermediate_size",
    "length": "max_position_embeddings",
}
_RATES = {
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
_FIELDS = _SIZES | _RATES
_CONSTANT: dict[str, Any] = {  # fields of `config.json` for which our model supports one value only
    "hidden_act": "gelu",
    "layer_norm_eps": ModelConfig.norm_eps,
    "type_vocab_size": TOKEN_TYPES,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "tie_word_embeddings": True,
}


def to_model(config: Mapping[str, Any], where: str) -> ModelConfig:
    """Returns the config of the model that a parsed `config.json` describes, with float32 activations.

    where: names the file in errors.

    Raises:
      UserError: the architecture is not BERT, or is a variant of BERT that our model does not support; or a field is
        missing, has the wrong type or is out of range.
    """
    model_type = _model_type(config, where)
    for field, value in _CONSTANT.items():
        found = config.get(field)
        if found is not None and (found != value or isinstance(found, bool) != isinstance(value, bool)):
            raise UserError(where, f"{field} {reprlib.repr(found)}", f"{value!r}, the only value that is supported")
    if missing := [name for name in _FIELDS.values() if name not in config]:
        raise UserError(where, f"no {', '.join(missing)}", "every size and dropout rate of the model")
    affinity = config.get("plpi_affinity_function", "vanilla") if model_type == PLPI else "vanilla"
    attentions = {name: attention for attention, name in AFFINITY.items()}
    if not isinstance(affinity, str) or affinity not in attentions:
        found = f"plpi_affinity_function {reprlib.repr(affinity)}"
        raise UserError(where, found, "a known function", did_you_mean(f"{affinity}", attentions))
    fields: dict[str, Any] = {ours: _to_int(config, name, where) for ours, name in _SIZES.items()}
    fields |= {ours: _to_fraction(config, name, where) for ours, name in _RATES.items()}
    model = ModelConfig(attention=attentions[affinity], dtype="float32", **fields)
    for problem in problems(Config(model=model)):
        what, wanted = problem.what, problem.wanted
        for ours, name in _FIELDS.items():  # the user knows the fields of config.json, not ours
            what, wanted = what.replace(f"model.{ours}", name), wanted.replace(f"model.{ours}=", f"{name}=")
        raise UserError(where, f"{what} {problem.found}", wanted, problem.hint)
    return model


def _model_type(config: Mapping[str, Any], where: str) -> str:
    """Returns the `model_type` of a config.

    Old configs have none: with `plpi_affinity_function`, a config is the paper's; any other is Hugging Face's, and an
    error if `architectures` names a class that is not BERT's.
    """
    model_type = config.get("model_type")
    if model_type is None and config.get("plpi_affinity_function") is not None:
        return PLPI
    if model_type is None:
        classes = config.get("architectures")
        classes = [name for name in classes if isinstance(name, str)] if isinstance(classes, list) else []
        if all(name.startswith("Bert") for name in classes):
            return HUGGING_FACE
        raise UserError(where, f"no model_type, and architectures {reprlib.repr(classes)}", "an architecture of BERT")
    if model_type not in (HUGGING_FACE, PLPI):
        raise UserError(where, f"model_type {reprlib.repr(model_type)}", f"{HUGGING_FACE} or {PLPI}")
    return str(model_type)


def _to_int(config: Mapping[str, Any], name: str, where: str) -> int:
    """Returns a field as an integer; some programs write 12 as 12.0."""
    value = config[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 1 << 63:
        raise UserError(where, f"{name} {reprlib.repr(config[name])}", "a whole number")
    return value


def _to_fraction(config: Mapping[str, Any], name: str, where: str) -> float:
    """Returns a field as a fraction, at least 0 and below 1."""
    value = config[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise UserError(where, f"{name} {reprlib.repr(value)}", "a fraction of at least 0 and below 1")
    return float(value)


def to_config(
    model: ModelConfig, model_type: str, classes: Sequence[str] | None, pad_id: int, dtype: str
) -> dict[str, Any]:
    """Returns the content of a `config.json`.

    model_type: `HUGGING_FACE` or `PLPI`.
    classes: the names of the classes of a classifier, empty for a regression; None for a masked-language model.
    pad_id: the token id of [PAD].
    dtype: the type of the weights.
    """
    config = {
        "architectures": ["BertForMaskedLM" if classes is None else "BertForSequenceClassification"],
        "model_type": model_type,
        **{name: getattr(model, ours) for ours, name in _FIELDS.items()},
        **_CONSTANT,
        "initializer_range": model.initializer_range,
        "pad_token_id": pad_id,
        "torch_dtype": dtype,
    }
    if model_type == PLPI:
        config["plpi_affinity_function"] = AFFINITY[model.attention]
    if classes is not None:
        names = list(classes) or ["score"]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
        config["problem_type"] = "single_label_classification" if classes else "regression"
    return config
