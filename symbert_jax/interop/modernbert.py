"""Converts between our `ModelConfig` and the `config.json` of Hugging Face's ModernBERT."""

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from symbert_jax.config import ModelConfig
from symbert_jax.errors import UserError
from symbert_jax.interop.fields import SIZES, check_constants, to_fraction, to_int, to_positive

MODEL_TYPE = "modernbert"
# Fields of `config.json` by fields of `ModelConfig`.
_NUMBERS = {"norm_eps": "norm_eps", "rope_theta": "global_rope_theta", "rope_theta_local": "local_rope_theta"}
FIELDS = SIZES | _NUMBERS | {"attention_dropout": "attention_dropout", "window": "local_attention"}
_BIASES = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias")
_DROPOUTS = ("embedding_dropout", "mlp_dropout")
_CONSTANT: dict[str, Any] = {  # fields of `config.json` for which our model supports one value only
    "hidden_activation": "gelu",
    "classifier_activation": "gelu",
    "decoder_bias": True,
    "tie_word_embeddings": True,
}
_CLASSIFIER: dict[str, Any] = {"classifier_pooling": "cls"}
# Values of ModernBertConfig for fields that a config.json may omit.
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(_BIASES, False),
    **dict.fromkeys((*_DROPOUTS, "attention_dropout"), 0.0),
    "norm_eps": 1e-5,
    "global_rope_theta": 160_000.0,
    "local_rope_theta": 10_000.0,
    "local_attention": 128,
    "global_attn_every_n_layers": 3,
}
# Fields of our model that are as in ModernBERT.
_REQUIRED = {"positions": "rope", "norm": "pre", "mlp": "geglu"}


def problems(model: ModelConfig) -> Iterator[UserError]:
    """Yields an error for every field of a model with rotary positions that ModernBERT does not have."""
    for name, wanted in _REQUIRED.items():
        if (found := getattr(model, name)) != wanted:
            wanted = f"{wanted!r}: no other model of transformers with rotary positions than ModernBERT is supported"
            yield UserError(f"model.{name}", repr(found), wanted)


def to_model(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the fields of `ModelConfig` that a parsed `config.json` describes.

    Raises:
      UserError: our model does not support a field, or it is missing, has the wrong type or is out of range.
    """
    check_constants(config, _CONSTANT, where)
    if config.get("rope_scaling") is not None:
        raise UserError(where, f"rope_scaling {reprlib.repr(config['rope_scaling'])}", "none, which is supported")
    if missing := [name for name in SIZES.values() if config.get(name) is None]:
        raise UserError(where, f"no {', '.join(missing)}", "every size of the model")
    config = _DEFAULTS | _with_old_names(config, where)
    fields: dict[str, Any] = {ours: to_int(config, name, where) for ours, name in SIZES.items()}
    fields |= {ours: to_positive(config, name, where) for ours, name in _NUMBERS.items()}
    biases, dropouts = ({name: config[name] for name in names} for names in (_BIASES, _DROPOUTS))
    for name, value in biases.items():
        if value is not biases["attention_bias"] or not isinstance(value, bool):
            wanted = "the same true or false for all of " + ", ".join(_BIASES)
            raise UserError(where, f"{name} {reprlib.repr(value)}", wanted)
    rates = {name: to_fraction(dropouts, name, where) for name in _DROPOUTS}
    if len(set(rates.values())) > 1:
        raise UserError(where, f"{' and '.join(_DROPOUTS)} {reprlib.repr([*rates.values()])}", "equal rates")
    every = to_int(config, "global_attn_every_n_layers", where)
    window = to_int(config, "local_attention", where)
    if every < 1:
        raise UserError(where, f"global_attn_every_n_layers {every}", "at least 1")
    if every > 1 and window < 2:
        raise UserError(where, f"local_attention {window}", "at least 2")
    return {
        **fields,
        **_REQUIRED,
        "bias": biases["attention_bias"],
        "dropout": rates["mlp_dropout"],
        "attention_dropout": to_fraction(config, "attention_dropout", where),
        "window": 0 if every == 1 else window // 2 * 2,
        "global_every": every if every > 1 else ModelConfig.global_every,
    }


def _with_old_names(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the fields with the names that they have up to transformers 4.

    Later versions have the kind of each layer, and the rotations by the kind of layer.
    """
    kinds, rotations = config.get("layer_types"), config.get("rope_parameters")
    renamed = {name: value for name, value in config.items() if value is not None}
    if "local_rope_theta" in config and config["local_rope_theta"] is None and "global_rope_theta" in renamed:
        renamed["local_rope_theta"] = renamed["global_rope_theta"]
    if isinstance(kinds, list):
        whole = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
        every = whole[1] - whole[0] if len(whole) > 1 else max(len(kinds), 2)
        every = renamed.setdefault("global_attn_every_n_layers", every)
        period = every if type(every) is int and every > 0 else 1  # any other is refused later
        wanted = ["sliding_attention" if i % period else "full_attention" for i in range(len(kinds))]
        if kinds != wanted or len(kinds) != config["num_hidden_layers"]:
            found, distance = f"layer_types {reprlib.repr(kinds)}", f"global ones at distances of {every}"
            raise UserError(where, found, f"a kind for each layer, {distance}, from the first")
    for name, kind in (("global_rope_theta", "full_attention"), ("local_rope_theta", "sliding_attention")):
        rotation = rotations.get(kind) if isinstance(rotations, dict) else None
        if isinstance(rotation, dict):
            if rotation.get("rope_type", "default") != "default":
                raise UserError(where, f"rope_type {reprlib.repr(rotation['rope_type'])}", "default")
            if "rope_theta" in rotation:
                renamed.setdefault(name, rotation["rope_theta"])
    return renamed


def to_config(model: ModelConfig) -> dict[str, Any]:
    """Returns the fields of a `config.json` that describe the architecture."""
    return {
        **{name: getattr(model, ours) for ours, name in (SIZES | _NUMBERS).items()},
        **dict.fromkeys(_BIASES, model.bias),
        **dict.fromkeys(_DROPOUTS, model.dropout),
        "attention_dropout": model.attention_dropout,
        "local_attention": model.window or _DEFAULTS["local_attention"],
        "global_attn_every_n_layers": model.global_every if model.window else 1,
        **_CONSTANT,
        **_CLASSIFIER,
    }
