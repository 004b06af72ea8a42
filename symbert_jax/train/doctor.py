"""What would ruin a run, found before it starts: every check that another module raises on the way, gathered, and
those that only make sense before the first step. Nothing is computed on a device."""

import dataclasses
import importlib.util
import math
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence

import jax
from etils import epath

from symbert_jax import config as configs
from symbert_jax import sharding
from symbert_jax.checkpoint import FOLDER, check_path
from symbert_jax.config import Config, MeshConfig
from symbert_jax.data import tokenizer
from symbert_jax.data.rows import SPLITS, VOCAB, find, open_split, read_manifest, verify
from symbert_jax.data.stream import read_words
from symbert_jax.errors import Advice, UserError, UserErrors
from symbert_jax.model import kernels
from symbert_jax.storage import absolute, bucket_errors_as_user_errors, file_sizes, is_bucket, require_writable_bucket
from symbert_jax.train import start
from symbert_jax.train import state as states

# BERT (2018) saw its corpus 40 times; with more passes a larger corpus or a smaller model is what helps.
EPOCHS = 40
# RoBERTa (2019) and LAMB (2020) went up to 6e-3, with batches of 32k rows; BERT-base wants 1e-4.
RATES = (1e-6, 1e-2)


Check = Callable[[Config, epath.Path], Iterator[UserError]]


def check(config: Config, workdir: epath.Path, *, thorough: bool = False) -> None:
    """Prints a line on stderr for each `Advice`.

    thorough: whether all rows of the corpus are read, to compare them with their checksums.

    Raises:
      UserErrors: all other findings.
    """
    found = problems(config, workdir, (*CHECKS, _row_files) if thorough else CHECKS)
    for advice in found:
        if isinstance(advice, Advice) and jax.process_index() == 0:
            print(f"warning: {advice}", file=sys.stderr)
    if errors := [error for error in found if not isinstance(error, Advice)]:
        raise UserErrors(errors)


def problems(config: Config, workdir: epath.Path, checks: Sequence[Check] | None = None) -> list[UserError]:
    """Everything that is wrong with a pretraining run, each thing once."""
    found: dict[str, UserError] = {}
    for check in checks or CHECKS:
        try:
            for finding in check(config, workdir):
                found.setdefault(str(finding), finding)
        except UserError as finding:  # what a check calls raised: it can say no more
            found.setdefault(str(finding), finding)
    return list(found.values())


def _fields(config: Config, _: epath.Path) -> Iterator[UserError]:
    yield from configs.problems(config)
    rate, (low, high) = config.optim.learning_rate, RATES
    if math.isfinite(rate) and not low <= rate <= high:
        yield Advice("optim.learning_rate", str(rate), f"one from {low:g} to {high:g}", "BERT-base takes 1e-4")


def _packages(config: Config, _: epath.Path) -> Iterator[UserError]:
    if config.train.wandb and importlib.util.find_spec("wandb") is None:
        hint = "pip install wandb, or leave the field empty"
        yield UserError("train.wandb", repr(config.train.wandb), "the package wandb", hint)


def _hosts(*_: object) -> Iterator[UserError]:
    """On a TPU slice every host must have joined, or each trains a model of its own."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    wanted = len(hosts) * int(os.environ.get("MEGASCALE_NUM_SLICES") or 1)
    if jax.default_backend() == "tpu" and jax.process_count() < wanted:
        hint = "run the same command on every host at once"
        yield UserError("hosts", str(jax.process_count()), f"{wanted}, as TPU_WORKER_HOSTNAMES says", hint)


def _devices(config: Config, _: epath.Path) -> Iterator[UserError]:
    _require_sizes(config)
    mesh = sharding.make_mesh(config.mesh)
    kernels.check(config.model, mesh.abstract_mesh.abstract_device)
    yield from sharding.problems(config, mesh)


def _words(config: Config, _: epath.Path) -> Iterator[UserError]:
    read_words(config)
    named = config.data.vocab
    made = read_manifest(find(config.data.dir)).vocab
    hint = "name the vocabulary that the corpus was made with, or another data.dir and prepare it"
    made_with = tokenizer.read(find(config.data.dir) / VOCAB)
    with bucket_errors_as_user_errors("data.vocab", named, "a vocabulary that can be read"):
        there = named != "train" and absolute(named, "data.vocab").exists()
    if there and tokenizer.read(tokenizer.find(named)) != made_with:
        yield UserError("data.vocab", f"{named} with other words", f"those of {config.data.dir}", hint)
    elif made.startswith("hf:") and config.data.vocab.startswith("hf:") and config.data.vocab != made:
        yield UserError("data.vocab", config.data.vocab, f"{made}, the vocabulary of {config.data.dir}", hint)


def _rows(config: Config, _: epath.Path) -> Iterator[UserError]:
    batch, steps = config.data.batch_size, config.train.steps
    folder = find(config.data.dir)
    manifest = read_manifest(folder)
    rows = manifest.rows["train"]
    if batch > rows:
        hint = "a batch would hold the same row twice: prepare more text"
        yield UserError("data.batch_size", str(batch), f"at most {rows}, the rows of the corpus", hint)
    elif (epochs := steps * batch / rows) > EPOCHS:
        hint = "shorten train.steps or prepare more text"
        yield Advice("train.steps", f"{steps}, {epochs:,.0f} epochs", f"at most {EPOCHS} epochs", hint)
    for split in SPLITS:
        open_split(folder, split, config.model.length)
        rate = config.data.mask_rate
        if 0 <= rate < 1 and round(rate * manifest.maskable[split]) < 1:
            found = f"at most {manifest.maskable[split]} tokens of a {split} row of {folder} that are not [UNK]"
            wanted = f"enough to mask one at data.mask_rate={rate}"
            yield UserError("data.dir", found, wanted, "prepare the text with a vocabulary that has its words")
    if advice := manifest.advice():
        yield Advice(*advice)


def _row_files(config: Config, _: epath.Path) -> Iterator[UserError]:
    """Yields nothing: raises what is wrong."""
    verify(find(config.data.dir), hashes=True)
    yield from ()


def _workdir(config: Config, workdir: epath.Path) -> Iterator[UserError]:
    check_path(workdir, "workdir")
    if is_bucket(workdir):
        require_writable_bucket(workdir)  # or there is no more to say
    else:
        for folder in sorted({_existing(workdir), _existing(workdir / FOLDER)}):
            _require_writable(folder)
    yield from _checkpoints(config, workdir)


def _require_writable(folder: epath.Path) -> None:
    probe = folder / f".symbert_jax_{uuid.uuid4().hex}"
    try:
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        found, hint = f"{folder}: {error.strerror or error}", "mend its permissions or name another --workdir"
        raise UserError("workdir", found, "a folder that can be written", hint) from None


def _checkpoints(config: Config, workdir: epath.Path) -> Iterator[UserError]:
    _require_sizes(config)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(), jax.local_devices()[:1])):
        yield from start.problems(dataclasses.replace(config, mesh=MeshConfig()), workdir)


def _disk(config: Config, workdir: epath.Path) -> Iterator[UserError]:
    """A bucket has no end."""
    if is_bucket(workdir):
        return
    _require_sizes(config)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(), jax.local_devices()[:1])):
        state = states.abstract(dataclasses.replace(config, mesh=MeshConfig()))
    each, train = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)), config.train
    kept = train.keep_latest + 1 + (train.steps // train.keep_every if train.keep_every else 0)  # 1 is the best
    made = -(-train.steps // train.checkpoint_every)
    count = min(kept + 1, made)  # one is written before another goes
    free = shutil.disk_usage(_existing(workdir)).free
    free += sum(file_sizes(workdir / FOLDER).values())
    if free < count * each:
        yield UserError(
            "workdir",
            f"{free / 1e6:,.1f} MB free for {workdir}",
            f"{count} x {each / 1e6:,.1f} MB for checkpoints",
            "take another disk or lower train.keep_latest" + ", or raise train.keep_every" * (train.keep_every > 0),
        )


CHECKS = (_fields, _packages, _hosts, _devices, _words, _rows, _workdir, _disk)


def _require_sizes(config: Config) -> None:
    """Raises the first problem of a field that others are divided by or that gives an array its shape."""
    for problem in configs.problems(config):
        if problem.what.startswith(("model.", "mesh.", "train.", "optim.accumulate")):
            raise problem


def _existing(folder: epath.Path) -> epath.Path:
    """`folder`, on a disk, or the nearest one above it that is there; a link that leads nowhere counts.

    Raises:
      UserError: it cannot be one.
    """
    try:
        os.lstat(folder)
        return folder
    except (FileNotFoundError, NotADirectoryError):
        return _existing(folder.parent)
    except OSError as error:
        raise UserError("workdir", f"{folder}: {error.strerror}", "a folder that can be written") from None
