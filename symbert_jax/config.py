"""The configuration: frozen dataclasses are the truth, ml-collections is the door.

A config file defines `get_config()`, which takes `default()`, the paper's BERT-base recipe, and changes
what differs. The command line overrides any field (`--config.model.attention=pairwise`); `freeze` then
checks the whole and turns it into the immutable, hashable `Config` that every other module reads.
"""

import dataclasses
import json
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from symbert_jax.errors import UserError, did_you_mean

ATTENTIONS = ("standard", "symmetric", "pairwise")
KERNELS = ("auto", "xla", "splash", "cudnn")


@dataclasses.dataclass(frozen=True)
class Model:
    attention: str = "standard"  # standard | symmetric | pairwise (paper, section 3)
    kernel: str = "auto"  # what computes attention: xla | splash (TPU) | cudnn (GPU) | auto, the fastest that can be
    pairwise_init: str = "normal"  # normal: P ~ N(0, 1), the paper's; identity: starts as symmetric
    layers: int = 12  # L
    dim: int = 768  # D
    heads: int = 12  # N; head width H = D / N
    mlp_dim: int = 3072  # F
    length: int = 512  # T, tokens of a row with [CLS] and [SEP]
    vocab_size: int = 30522  # V, rows of the embedding table; may exceed the vocabulary
    dropout: float = 0.1  # embeddings and both residual branches
    attention_dropout: float = 0.1  # attention probabilities
    dtype: str = "bfloat16"  # activations; parameters and moments are always float32
    remat: str = "none"  # what the backward pass recomputes: none | dots (all but matmul results) | full
    unroll: int = 1  # layers per scan step: faster steps, longer compilation; 0 is all of them


@dataclasses.dataclass(frozen=True)
class Data:
    dir: str = "data/wiki_books"  # the prepared corpus; one in a bucket (gs://…) is copied to the local disk
    sources: tuple[str, ...] = ()  # tfds:NAME bookcorpus:DIR jsonl:GLOB text:GLOB python-docs[:stdlib]
    vocab: str = "hf:google-bert/bert-base-uncased"  # a vocab.txt, hf:REPOSITORY, or train
    validation_fraction: float = 0.005  # of the documents, chosen by a hash of their text
    mask_rate: float = 0.15  # of the non-special tokens of a row
    cross_document: bool = True  # whether tokens see the other documents of their row; if not, positions restart
    batch_size: int = 256  # B, rows of one optimizer step over all hosts
    reader_threads: int = 4  # per host


@dataclasses.dataclass(frozen=True)
class Optim:
    name: str = "adamw"  # adamw | lamb
    learning_rate: float = 1e-4
    warmup_steps: int = 10_000  # linear from 0
    schedule: str = "linear"  # linear | cosine: how it then comes down to 0 at train.steps
    weight_decay: float = 0.01  # not on biases and LayerNorm
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-12
    clip: float = 1.0  # global gradient norm; 0 never clips
    accumulate: int = 1  # micro-batches that one batch is cut into


@dataclasses.dataclass(frozen=True)
class Train:
    steps: int = 200_000
    log_every: int = 100
    validate_every: int = 1_000
    validate_batches: int = 50  # of data.batch_size rows; 0 is the whole validation split
    checkpoint_every: int = 1_000
    keep_latest: int = 3  # checkpoints; the one with the best validation loss is kept besides
    keep_every: int = 0  # keeps every checkpoint whose step it divides for ever; 0 keeps none so
    profile_steps: str = ""  # FIRST:LAST, steps of which a trace is left in WORKDIR/profile; empty traces none
    wandb: str = ""  # Weights & Biases project to log to as well; empty is off


@dataclasses.dataclass(frozen=True)
class Mesh:
    data: int = -1  # devices along the batch; -1 takes what mesh.model leaves
    model: int = 1  # devices along heads, MLP width and vocabulary
    fsdp: bool = False  # also shards parameters and moments along `data`


@dataclasses.dataclass(frozen=True)
class Config:
    model: Model = Model()
    data: Data = Data()
    optim: Optim = Optim()
    train: Train = Train()
    mesh: Mesh = Mesh()
    seed: int = 0
    init_from: str = ""  # WORKDIR or WORKDIR@STEP of a run: a new one starts from its parameters; empty draws them


@dataclasses.dataclass(frozen=True)
class Glue:
    source: str = ""  # tsv:DIR, the standard folders, or tfds:DIR, prepared as ArrayRecord


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Of `finetune`. What a protocol sets is its own to say where a field here is 0 or empty."""

    checkpoint: tuple[str, ...] = ()  # the workdirs of pretrain runs
    checkpoint_steps: tuple[int, ...] = ()  # of each of them; empty is the latest
    tasks: tuple[str, ...] = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")
    protocol: str = "paper"  # paper | bert | roberta | cramming (eval/protocols.py)
    seeds: int = 0  # 0 to seeds - 1
    epochs: int = 0
    learning_rates: tuple[float, ...] = ()  # several: the best by the validation split
    batch_sizes: tuple[int, ...] = ()  # likewise
    select: str = ""  # last | best: which epoch counts, by the validation split
    from_mnli: bool = False  # RTE, MRPC and STS-B start from the best MNLI model
    together: int = 0  # trials that train side by side; 0 takes what memory allows
    save_models: bool = False  # keeps the best model of each task in models/
    predictions: bool = False  # writes the files that the GLUE server takes to submission/
    glue: Glue = Glue()
    mesh: Mesh = Mesh()


def default() -> ConfigDict:
    """The paper's BERT-base recipe, open to changes of value but not to unknown fields."""
    return ConfigDict(dataclasses.asdict(Config())).lock()


def default_finetune() -> ConfigDict:
    """The paper's fine-tuning of every GLUE task, likewise."""
    return ConfigDict(dataclasses.asdict(Finetune())).lock()


def freeze(config: ConfigDict) -> Config:
    """Checks `config` and makes it immutable.

    Raises:
      UserError: a field or a combination of fields is wrong.
    """
    frozen = freeze_unchecked(config)
    check(frozen)
    return frozen


def freeze_unchecked(config: ConfigDict) -> Config:
    """The same for who wants all `problems` and not only the first; raises on a field of a wrong type."""
    return from_dict(config.to_dict())


def freeze_finetune(config: ConfigDict) -> Finetune:
    """Checks a config of `finetune` and makes it immutable; raises as `freeze`."""
    frozen: Finetune = _build(Finetune, config.to_dict(), "config")
    check_finetune(frozen)
    return frozen


def from_dict(tree: Mapping[str, Any]) -> Config:
    """`Config` from nested mappings; a missing field takes its default, so old checkpoints keep loading."""
    return _build(Config, tree, "config")


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    return from_dict(json.loads(text))


def fields(config: Any, prefix: str = "") -> dict[str, Any]:
    """The value of every field by its dotted name, as flags write it."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        name, value = prefix + field.name, getattr(config, field.name)
        found |= fields(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return found


def check(config: Config) -> None:
    """Raises the first of the `problems`."""
    for problem in problems(config):
        raise problem


def problems(config: Config) -> Iterator[UserError]:
    """A `UserError` for every field, alone or against others, that cannot work."""
    model, data, optim, train, mesh = config.model, config.data, config.optim, config.train, config.mesh
    for field, value, known in (
        ("model.attention", model.attention, ATTENTIONS),
        ("model.kernel", model.kernel, KERNELS),
        ("model.pairwise_init", model.pairwise_init, ("normal", "identity")),
        ("model.dtype", model.dtype, ("bfloat16", "float32")),
        ("model.remat", model.remat, ("none", "dots", "full")),
        ("optim.name", optim.name, ("adamw", "lamb")),
        ("optim.schedule", optim.schedule, ("linear", "cosine")),
    ):
        if value not in known:
            yield UserError(field, repr(value), "one of " + ", ".join(known), did_you_mean(value, known))
    for field, count, least in (
        ("seed", config.seed, 0),
        ("model.layers", model.layers, 1),
        ("model.dim", model.dim, 1),
        ("model.heads", model.heads, 1),
        ("model.mlp_dim", model.mlp_dim, 1),
        ("model.length", model.length, 8),
        ("model.vocab_size", model.vocab_size, 1),
        ("model.unroll", model.unroll, 0),
        ("data.batch_size", data.batch_size, 1),
        ("data.reader_threads", data.reader_threads, 1),
        ("optim.warmup_steps", optim.warmup_steps, 0),
        ("optim.accumulate", optim.accumulate, 1),
        ("train.steps", train.steps, 1),
        ("train.log_every", train.log_every, 1),
        ("train.validate_every", train.validate_every, 1),
        ("train.validate_batches", train.validate_batches, 0),
        ("train.checkpoint_every", train.checkpoint_every, 1),
        ("train.keep_latest", train.keep_latest, 1),
        ("train.keep_every", train.keep_every, 0),
    ):
        if count < least:
            yield UserError(field, str(count), f"at least {least}")
    for field, rate in (
        ("model.dropout", model.dropout),
        ("model.attention_dropout", model.attention_dropout),
        ("data.mask_rate", data.mask_rate),
        ("data.validation_fraction", data.validation_fraction),
    ):
        if not 0 <= rate < 1:
            yield UserError(field, str(rate), "a fraction of at least 0 and below 1")
    for name in ("learning_rate", "weight_decay", "b1", "b2", "eps", "clip"):
        if not 0 <= (number := getattr(optim, name)) < float("inf"):
            yield UserError(f"optim.{name}", str(number), "a finite number of at least 0")
    if max(optim.b1, optim.b2) >= 1:
        yield UserError("optim.b1, optim.b2", f"{optim.b1}, {optim.b2}", "below 1")
    if 0 <= data.mask_rate < 1 and round(data.mask_rate * (model.length - 2)) < 1:
        wanted = f"enough to mask a token of model.length={model.length}"
        yield UserError("data.mask_rate", str(data.mask_rate), wanted, "without masked tokens there is no loss")
    if model.vocab_size > 2**16:
        yield UserError("model.vocab_size", str(model.vocab_size), "at most 65536", "rows are stored as uint16")
    for field, whole, name, part in (
        ("model.dim", model.dim, "model.heads", model.heads),
        ("model.layers", model.layers, "model.unroll", model.unroll),
        ("data.batch_size", data.batch_size, "optim.accumulate", optim.accumulate),
        ("train.checkpoint_every", train.checkpoint_every, "train.validate_every", train.validate_every),
    ):
        yield from _multiple(field, whole, name, part)
    yield from mesh_problems(mesh)
    yield from split_problems(model, mesh)
    window = re.fullmatch(r"(\d+):(\d+)", train.profile_steps)
    if train.profile_steps and not (window and 1 <= int(window[1]) <= int(window[2]) <= train.steps):
        wanted = f"FIRST:LAST, steps from 1 to train.steps={train.steps}"
        yield UserError("train.profile_steps", repr(train.profile_steps), wanted, "for example 10:15")
    if optim.warmup_steps >= train.steps:
        yield UserError(
            "optim.warmup_steps",
            str(optim.warmup_steps),
            f"fewer than train.steps={train.steps}",
            "the learning rate would never come down again",
        )


def mesh_problems(mesh: Mesh) -> Iterator[UserError]:
    if mesh.model < 1:
        yield UserError("mesh.model", str(mesh.model), "at least 1")
    if mesh.data == 0 or mesh.data < -1:
        yield UserError("mesh.data", str(mesh.data), "a number of devices, or -1 for all that mesh.model leaves")


def split_problems(model: Model, mesh: Mesh) -> Iterator[UserError]:
    """What `mesh.model` shares out is a multiple of it."""
    yield from _multiple("model.heads", model.heads, "mesh.model", mesh.model)
    yield from _multiple("model.mlp_dim", model.mlp_dim, "mesh.model", mesh.model)
    yield from _multiple("model.vocab_size", model.vocab_size, "mesh.model", mesh.model)


def _multiple(field: str, whole: int, name: str, part: int) -> Iterator[UserError]:
    if part >= 1 and whole % part:
        above = -(-whole // part) * part
        yield UserError(field, str(whole), f"a multiple of {name}={part}", f"the next is {above}")


def check_finetune(config: Finetune) -> None:
    """Raises `UserError` on the first field that cannot work; protocol, tasks and data check their own, and
    `sharding.check_split` what a mesh does to the model of a checkpoint."""
    if not config.checkpoint:
        raise UserError("checkpoint", "none", "the workdir of a pretrain run", "--config.checkpoint=DIR")
    if config.select not in ("", "last", "best"):
        raise UserError("select", repr(config.select), "last or best")
    for field, least in (("seeds", 0), ("epochs", 0), ("together", 0)):
        if (count := getattr(config, field)) < least:
            raise UserError(field, str(count), f"at least {least}")
    for field in ("learning_rates", "batch_sizes"):
        if any(not 0 < number < float("inf") for number in getattr(config, field)):
            raise UserError(field, str(getattr(config, field)), "finite numbers above 0")
    if any(step < 0 for step in config.checkpoint_steps):  # an imported model is at step 0
        raise UserError("checkpoint_steps", str(config.checkpoint_steps), "steps of at least 0")
    for problem in mesh_problems(config.mesh):
        raise problem


def _build(kind: type, value: Any, path: str) -> Any:
    """An instance of dataclass `kind` from mapping `value`; `path` names it in errors."""
    if not isinstance(value, Mapping):
        raise UserError(path, repr(value), "a mapping of fields")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(value) - set(fields)):
        raise UserError(f"{path}.{unknown[0]}", "no such field", "a known one", did_you_mean(unknown[0], fields))
    types = typing.get_type_hints(kind)
    return kind(**{name: _convert(types[name], found, f"{path}.{name}") for name, found in value.items()})


def _convert(kind: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, path)
    if typing.get_origin(kind) is tuple:  # `--config.data.sources=a,b` arrives as one string
        items = value if isinstance(value, tuple | list) else [value]
        parts = [part for item in items for part in str(item).split(",") if part]
        return tuple(_parse(typing.get_args(kind)[0], part, path) for part in parts)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise UserError(path, repr(value), f"a value of type {kind.__name__}")
    return value


def _parse(kind: type, text: str, path: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UserError(path, repr(text), f"a value of type {kind.__name__}") from None
