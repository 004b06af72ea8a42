"""Converts between our `ModelConfig` and the `config.json` of a BERT: Hugging Face's, the paper's, or a ModernBERT."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from symbert_jax.config import Config, ModelConfig, problems
from symbert_jax.errors import UserError, did_you_mean
from symbert_jax.interop import modernbert
from symbert_jax.interop.fields import SIZES, check_constants, to_fraction, to_int
from symbert_jax.model.parameters import TOKEN_TYPES

# The paper's names of attention, by ours.
AFFINITY = {"standard": "vanilla", "symmetric": "symmetric", "pairwise": "pairwise"}
HUGGING_FACE, PLPI = "bert", "plpi/bert"  # values of `model_type`; of ModernBERT: modernbert.MODEL_TYPE
TITLES = {HUGGING_FACE: "BERT", PLPI: "BERT", modernbert.MODEL_TYPE: "ModernBERT"}
_CLASSES = {HUGGING_FACE: "Bert", PLPI: "Bert", modernbert.MODEL_TYPE: "ModernBert"}  # the names of classes begin so

# Fields of `config.json` by fields of `ModelConfig`.
_RATES = {
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
_FIELDS = SIZES | _RATES
_CONSTANT: dict[str, Any] = {  # fields of `config.json` for which our model supports one value only
    "hidden_act": "gelu",
    "layer_norm_eps": ModelConfig.norm_eps,
    "type_vocab_size": TOKEN_TYPES,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "tie_word_embeddings": True,
}
# Fields of our model that are as in BERT.
_REQUIRED = {name: getattr(ModelConfig, name) for name in ("positions", "norm", "norm_eps", "mlp", "bias", "window")}


def check_exportable(model: ModelConfig, format: str) -> None:
    """Raises `UserError` if a field of the model has no equivalent in any model of `transformers`, or in `plpi/bert`.

    format: one of `export.FORMATS`.
    """
    if model.positions == "rope" and format == "huggingface":
        for problem in modernbert.problems(model):
            raise problem
        return
    for name, wanted in _REQUIRED.items():
        if (found := getattr(model, name)) != wanted:
            hint = "" if format == "plpi" else "a ModernBERT has model.positions=rope, model.norm=pre, model.mlp=geglu"
            raise UserError(f"model.{name}", repr(found), f"{wanted!r}, as BERT has it", hint)


def model_type_of(model: ModelConfig) -> str:
    """Returns the `model_type` of the model of `transformers` with these fields, given that there is one."""
    return modernbert.MODEL_TYPE if model.positions == "rope" else HUGGING_FACE


def to_model(config: Mapping[str, Any], where: str) -> ModelConfig:
    """Returns the config of the model that a parsed `config.json` describes, with float32 activations.

    where: names the file in errors.

    Raises:
      UserError: the architecture is neither BERT nor ModernBERT, or is a variant that our model does not support; or a
        field is missing, has the wrong type or is out of range.
    """
    model_type = _model_type(config, where)
    if model_type == modernbert.MODEL_TYPE:
        names, fields = modernbert.FIELDS, modernbert.to_model(config, where)
    else:
        names, fields = _FIELDS, _to_bert(config, model_type, where)
    model = ModelConfig(dtype="float32", **fields)
    for problem in problems(Config(model=model)):
        what, wanted = problem.what, problem.wanted
        for ours, name in names.items():  # the user knows the fields of config.json, not ours
            what, wanted = what.replace(f"model.{ours}", name), wanted.replace(f"model.{ours}=", f"{name}=")
        raise UserError(where, f"{what} {problem.found}", wanted, problem.hint)
    return model


def _to_bert(config: Mapping[str, Any], model_type: str, where: str) -> dict[str, Any]:
    """Returns the fields of `ModelConfig` that the config of a BERT describes."""
    check_constants(config, _CONSTANT, where)
    if missing := [name for name in _FIELDS.values() if name not in config]:
        raise UserError(where, f"no {', '.join(missing)}", "every size and dropout rate of the model")
    affinity = config.get("plpi_affinity_function", "vanilla") if model_type == PLPI else "vanilla"
    attentions = {name: attention for attention, name in AFFINITY.items()}
    if not isinstance(affinity, str) or affinity not in attentions:
        found = f"plpi_affinity_function {reprlib.repr(affinity)}"
        raise UserError(where, found, "a known function", did_you_mean(f"{affinity}", attentions))
    fields: dict[str, Any] = {ours: to_int(config, name, where) for ours, name in SIZES.items()}
    fields |= {ours: to_fraction(config, name, where) for ours, name in _RATES.items()}
    return {"attention": attentions[affinity], **fields}


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
    if model_type not in _CLASSES:
        raise UserError(where, f"model_type {reprlib.repr(model_type)}", " or ".join(_CLASSES))
    return str(model_type)


def to_config(
    model: ModelConfig, model_type: str, classes: Sequence[str] | None, pad_id: int, dtype: str
) -> dict[str, Any]:
    """Returns the content of a `config.json`.

    model_type: `PLPI`, or what `model_type_of` returns.
    classes: the names of the classes of a classifier, empty for a regression; None for a masked-language model.
    pad_id: the token id of [PAD].
    dtype: the type of the weights.
    """
    architecture = (
        modernbert.to_config(model)
        if model_type == modernbert.MODEL_TYPE
        else {name: getattr(model, ours) for ours, name in _FIELDS.items()} | _CONSTANT
    )
    task = "MaskedLM" if classes is None else "SequenceClassification"
    config = {
        "architectures": [f"{_CLASSES[model_type]}For{task}"],
        "model_type": model_type,
        **architecture,
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


def token_ids(model_type: str, cls_id: int, sep_id: int) -> dict[str, int]:
    """Returns further fields of a `config.json`: special tokens for which ModernBERT has other defaults than ours."""
    if model_type != modernbert.MODEL_TYPE:
        return {}
    return {"cls_token_id": cls_id, "bos_token_id": cls_id, "sep_token_id": sep_id, "eos_token_id": sep_id}
