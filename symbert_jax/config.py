"""The configuration: frozen dataclasses are the truth, ml-collections is the door.

A config file defines `get_config()`, which takes `default()`, the paper's BERT-base recipe, and changes
what differs. The command line overrides any field (`--config.model.attention=pairwise`); `freeze` then
checks the whole and turns it into the immutable, hashable `Config` that every other module reads.
"""

import ast
import csv
import dataclasses
import json
import math
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict

from symbert_jax.errors import UserError, closest, did_you_mean
from symbert_jax.storage import parse_json_object, read_json

ATTENTIONS = ("standard", "symmetric", "pairwise")
KERNELS = ("auto", "xla", "splash", "cudnn")


class Choice(NamedTuple):
    """The values that a field may have."""

    known: tuple[str, ...]

    def problem(self, field: str, value: Any) -> UserError | None:
        if value in self.known:
            return None
        return UserError(
            field, repr(value), f"one of {', '.join(filter(None, self.known))}", closest(value, self.known)
        )


class Range(NamedTuple):
    """The numbers that a field may have, both ends included."""

    least: int
    most: int = 2**31 - 1  # devices count in int32
    why: str = ""  # of `most`

    def problem(self, field: str, value: int) -> UserError | None:
        if value < self.least:
            return UserError(field, str(value), f"at least {self.least}")
        if value > self.most:
            found = str(value) if value <= 1e15 else f"{value:.3g}" if value < 1e308 else f"{len(str(value))} digits"
            return UserError(field, found, f"at most {self.most}", self.why)
        return None


class Real(NamedTuple):
    """The real numbers from 0 to below `end`."""

    end: float

    def problem(self, field: str, value: float) -> UserError | None:
        if 0 <= value < self.end:
            return None
        infinite = math.isinf(self.end)
        return UserError(field, str(value), "a finite number of at least 0" if infinite else _FRACTION)


_FRACTION = "a fraction of at least 0 and below 1"

Count = Annotated[int, Range(1)]
Index = Annotated[int, Range(0)]
Size = Annotated[int, Range(1, 2**20)]  # of one dimension of an array
Fraction = Annotated[float, Real(1.0)]
Amount = Annotated[float, Real(math.inf)]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    attention: Annotated[str, Choice(ATTENTIONS)] = "standard"  # the score function (paper, section 3)
    # what computes attention: xla | splash (TPU) | cudnn (GPU) | auto, the fastest that the model and the device allow
    kernel: Annotated[str, Choice(KERNELS)] = "auto"
    # full: P is an H x H matrix per head, the paper's; diagonal: P is a diagonal one
    pairwise_form: Annotated[str, Choice(("full", "diagonal"))] = "full"
    # normal: P ~ N(0, 1), the paper's; identity: starts as symmetric
    pairwise_init: Annotated[str, Choice(("normal", "identity"))] = "normal"
    layers: Size = 12  # L
    dim: Size = 768  # D
    heads: Size = 12  # N; head width H = D / N
    mlp_dim: Size = 3072  # F
    length: Annotated[int, Range(8, 2**20)] = 512  # T, tokens of a row with [CLS] and [SEP]
    # V, rows of the embedding table; may exceed the vocabulary
    vocab_size: Annotated[int, Range(1, 2**16, "rows are stored as uint16")] = 30522
    dropout: Fraction = 0.1  # embeddings and both residual branches
    attention_dropout: Fraction = 0.1  # attention probabilities
    # of activations; parameters and moments are always float32
    dtype: Annotated[str, Choice(("bfloat16", "float32"))] = "bfloat16"
    # what the backward pass recomputes: none | dots (all but matmul results) | full
    remat: Annotated[str, Choice(("none", "dots", "full"))] = "none"
    unroll: Annotated[int, Range(0, 2**20)] = (
        1  # layers per scan step: faster steps, longer compilation; 0 is all of them
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    dir: str = "data/wiki_books"  # the prepared corpus; one in a bucket (gs://…) is copied to the local disk
    sources: tuple[str, ...] = ()  # tfds:NAME bookcorpus:DIR jsonl:GLOB text:GLOB python-docs[:stdlib]
    vocab: str = "hf:google-bert/bert-base-uncased"  # vocab.txt, tokenizer.json, their folder, hf:REPOSITORY or train
    validation_fraction: Fraction = 0.005  # of the documents, chosen by a hash of their text
    mask_rate: Fraction = 0.15  # of the non-special tokens of a row
    cross_document: bool = True  # whether tokens see the other documents of their row; if not, positions restart
    batch_size: Size = 256  # B, rows of one optimizer step over all hosts
    reader_threads: Annotated[int, Range(1, 1024)] = 4  # per host


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    name: Annotated[str, Choice(("adamw", "lamb"))] = "adamw"
    learning_rate: Amount = 1e-4
    warmup_steps: Index = 10_000  # linear from 0
    # how the learning rate then comes down to 0 at train.steps
    schedule: Annotated[str, Choice(("linear", "cosine"))] = "linear"
    weight_decay: Amount = 0.01  # not on biases and LayerNorm
    b1: Fraction = 0.9
    b2: Fraction = 0.999
    eps: Amount = 1e-12
    clip: Amount = 1.0  # global gradient norm; 0 never clips
    accumulate: Size = 1  # micro-batches that one batch is cut into


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    steps: Count = 200_000
    log_every: Count = 100
    validate_every: Count = 1_000
    validate_batches: Index = 50  # of data.batch_size rows; 0 is the whole validation split
    checkpoint_every: Count = 1_000
    keep_latest: Count = 3  # checkpoints; the one with the best validation loss is kept besides
    keep_every: Index = 0  # also keep every checkpoint at a multiple of this step; 0 disables
    profile_steps: str = ""  # FIRST:LAST, steps of which a trace is left in WORKDIR/profile; empty traces none
    wandb: str = ""  # Weights & Biases project to log to as well; empty is off


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    data: Annotated[int, Range(-1)] = -1  # devices along the batch; -1 takes what mesh.model leaves
    model: Count = 1  # devices along heads, MLP width and vocabulary
    fsdp: bool = False  # also shards parameters and moments along `data`


@dataclasses.dataclass(frozen=True)
class Config:
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()
    seed: Annotated[int, Range(0, 2**32 - 1, "two seeds 2^32 apart draw the same parameters")] = 0
    init_from: str = ""  # WORKDIR or WORKDIR@STEP of a run: a new one starts from its parameters; empty draws them


@dataclasses.dataclass(frozen=True)
class GlueConfig:
    source: str = ""  # tsv:DIR, the standard folders, or tfds:DIR, prepared as ArrayRecord


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning config. 0 or empty means: use the protocol's value."""

    checkpoint: tuple[str, ...] = ()  # the workdirs of pretrain runs
    checkpoint_steps: tuple[Index, ...] = ()  # of each of them; empty is the latest
    tasks: tuple[str, ...] = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")
    protocol: str = "paper"  # paper | bert | roberta | cramming (eval/protocols.py)
    seeds: Annotated[int, Range(0, 10_000)] = 0  # 0 to seeds - 1
    epochs: Annotated[int, Range(0, 10_000)] = 0
    learning_rates: tuple[Amount, ...] = ()  # several: the best by the validation split
    batch_sizes: tuple[Size, ...] = ()  # likewise
    # last | best: which epoch counts, by the validation split
    select: Annotated[str, Choice(("", "last", "best"))] = ""
    from_mnli: bool = False  # RTE, MRPC and STS-B start from the best MNLI model
    together: Annotated[int, Range(0, 10_000)] = 0  # trials that train side by side; 0 takes what memory allows
    save_models: bool = False  # keeps the best model of each task in models/
    predictions: bool = False  # writes the files that the GLUE server takes to submission/
    glue: GlueConfig = GlueConfig()
    mesh: MeshConfig = MeshConfig()


def default() -> ConfigDict:
    """The paper's BERT-base recipe, open to changes of value but not to unknown fields."""
    return ConfigDict(dataclasses.asdict(Config())).lock()


def default_finetune() -> ConfigDict:
    """The paper's fine-tuning of every GLUE task, likewise."""
    return ConfigDict(dataclasses.asdict(FinetuneConfig())).lock()


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


def freeze_finetune(config: ConfigDict) -> FinetuneConfig:
    """Checks a config of `finetune` and makes it immutable; raises as `freeze`."""
    frozen: FinetuneConfig = _build(FinetuneConfig, config.to_dict(), "config")
    check_finetune(frozen)
    return frozen


def from_dict(tree: Mapping[str, Any]) -> Config:
    """`Config` from nested mappings; a missing field takes its default, so old checkpoints keep loading."""
    return _build(Config, tree, "config")


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str, where: str = "config.json") -> Config:
    """What `to_json` wrote; `where` names the file in errors.

    Raises:
      UserError: it is no JSON object, or a field is unknown or of another type.
    """
    config: Config = _build(Config, parse_json_object(text, where, "config"), f"{where}: config")
    return config


def read(workdir: epath.Path) -> Config:
    """The config of the run in `workdir`; raises as `from_json`, or if there is none."""
    file = workdir / "config.json"
    config: Config = _build(Config, read_json(file, "checkpoint"), f"{file}: config")
    return config


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
    yield from field_problems(config)
    model, data, optim, train, mesh = config.model, config.data, config.optim, config.train, config.mesh
    if 0 <= data.mask_rate < 1 and round(data.mask_rate * (model.length - 2)) < 1:
        wanted = f"enough to mask a token of model.length={model.length}"
        yield UserError("data.mask_rate", str(data.mask_rate), wanted, "without masked tokens there is no loss")
    for field, whole, name, part in (
        ("model.dim", model.dim, "model.heads", model.heads),
        ("model.layers", model.layers, "model.unroll", model.unroll),
        ("data.batch_size", data.batch_size, "optim.accumulate", optim.accumulate),
        ("train.checkpoint_every", train.checkpoint_every, "train.validate_every", train.validate_every),
    ):
        yield from _multiple(field, whole, name, part)
    if mesh.data == 0:
        yield UserError("mesh.data", "0", "a number of devices, or -1 for all that mesh.model leaves")
    yield from split_problems(model, mesh)
    window = re.fullmatch(r"([0-9]{1,10}):([0-9]{1,10})", train.profile_steps)
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


def field_problems(config: Any, prefix: str = "") -> Iterator[UserError]:
    """A `UserError` for every field of a dataclass tree that is outside the limits declared with it."""
    types = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        name, value, kind = prefix + field.name, getattr(config, field.name), types[field.name]
        if dataclasses.is_dataclass(value):
            yield from field_problems(value, f"{name}.")
            continue
        if isinstance(value, tuple):
            kind = typing.get_args(kind)[0]
        for limit in getattr(kind, "__metadata__", ()):
            for each in value if isinstance(value, tuple) else (value,):
                if problem := limit.problem(name, each):
                    yield problem


def split_problems(model: ModelConfig, mesh: MeshConfig) -> Iterator[UserError]:
    """What `mesh.model` shares out is a multiple of it."""
    yield from _multiple("model.heads", model.heads, "mesh.model", mesh.model)
    yield from _multiple("model.mlp_dim", model.mlp_dim, "mesh.model", mesh.model)
    yield from _multiple("model.vocab_size", model.vocab_size, "mesh.model", mesh.model)


def _multiple(field: str, whole: int, name: str, part: int) -> Iterator[UserError]:
    if part >= 1 and whole % part:
        above = -(-whole // part) * part
        yield UserError(field, str(whole), f"a multiple of {name}={part}", f"the next is {above}")


def check_finetune(config: FinetuneConfig) -> None:
    """Raises `UserError` on the first field that cannot work; protocol, tasks and data check their own, and
    `sharding.check_split` what a mesh does to the model of a checkpoint."""
    if not config.checkpoint:
        raise UserError("checkpoint", "none", "the workdir of a pretrain run", "--config.checkpoint=DIR")
    for problem in field_problems(config):
        raise problem
    if any(rate == 0 for rate in config.learning_rates):
        raise UserError("learning_rates", str(config.learning_rates), "finite numbers above 0")


def split_list(text: str) -> list[str]:
    """The parts of a list as the command line writes it: `a,b`, with double quotes around a part that holds a comma.

    A Python tuple or list of strings and numbers is taken too.
    """
    if text[:1] in ("(", "["):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
        if isinstance(found, tuple | list) and all(isinstance(part, str | int | float) for part in found):
            return [str(part) for part in found]
    if not text.strip():
        return []
    try:
        (parts,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):  # ValueError: a line end makes several rows
        wanted = "parts divided by commas, double quotes around one that holds a comma"
        raise UserError("command line", repr(text), wanted) from None
    return [part.strip() for part in parts if part.strip()]


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
    if typing.get_origin(kind) is tuple:
        items = split_list(value) if isinstance(value, str) else value
        if not isinstance(items, tuple | list):
            raise UserError(path, repr(value), "a list")
        return tuple(_element(typing.get_args(kind)[0], item, path) for item in items)
    if kind is float and type(value) is int:
        return _element(float, value, path)
    if type(value) is not kind:
        raise UserError(path, repr(value), f"a value of type {kind.__name__}")
    return value


def _element(kind: Any, value: Any, path: str) -> Any:
    """One number or string, which the command line writes as a string."""
    try:
        if type(value) not in (str, int, float):
            raise ValueError
        if kind is int and type(value) is float:
            raise ValueError
        return kind(value)
    except (ValueError, OverflowError):  # OverflowError: an int beyond every float
        raise UserError(path, repr(value)[:80], f"a value of type {kind.__name__}") from None
