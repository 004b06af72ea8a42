"""Finds, before a pretraining run starts, what would ruin it.

Gathers the checks of other modules, and adds those that only make sense before the first step. Computes nothing on a
device.
"""

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
from symbert_jax.config import Config, MeshConfig, phases, rows_by_corpus
from symbert_jax.data import tokenizer
from symbert_jax.data.corpus import Corpora, Corpus
from symbert_jax.data.manifest import SPLITS
from symbert_jax.distributed import is_main_process
from symbert_jax.errors import Advice, UserError, UserErrors
from symbert_jax.model import kernels
from symbert_jax.storage import absolute, bucket_errors_as_user_errors, check_writable_bucket, file_sizes, is_bucket
from symbert_jax.train import start
from symbert_jax.train import state as states

# BERT (2018) trained for 40 epochs. Beyond that, more text or a smaller model helps more than further epochs.
MAX_EPOCHS = 40
# Wider than the range of papers, whose peaks are from 1e-4 for BERT-base to a few 1e-3 for LAMB with large batches.
LEARNING_RATES = (1e-6, 1e-2)

Check = Callable[[Config, Corpora, epath.Path], Iterator[UserError]]


def check(config: Config, corpora: Corpora, workdir: epath.Path, *, thorough: bool = False) -> None:
    """Prints a line on stderr for each `Advice` about a pretraining run, and raises all other problems.

    thorough: whether to also read all rows of the corpora and compare them with their checksums.

    Raises:
      UserErrors: the problems that would ruin the run.
    """
    found = problems(config, corpora, workdir, (*CHECKS, _row_file_problems) if thorough else CHECKS)
    for problem in found:
        if isinstance(problem, Advice) and is_main_process():
            print(f"warning: {problem}", file=sys.stderr)
    if errors := [problem for problem in found if not isinstance(problem, Advice)]:
        raise UserErrors(errors)


def problems(
    config: Config, corpora: Corpora, workdir: epath.Path, checks: Sequence[Check] | None = None
) -> list[UserError]:
    """Returns all problems of a pretraining run, each of them once.

    checks: None means CHECKS.
    """
    found: dict[str, UserError] = {}  # by message, so that each is returned once
    for find_problems in checks or CHECKS:
        try:
            for problem in find_problems(config, corpora, workdir):
                found.setdefault(str(problem), problem)
        except UserError as problem:  # raised by a function that the check calls; the check cannot continue
            found.setdefault(str(problem), problem)
    return list(found.values())


def _fields_problems(config: Config, *_: object) -> Iterator[UserError]:
    yield from configs.problems(config)
    learning_rate, (low, high) = config.optim.learning_rate, LEARNING_RATES
    if math.isfinite(learning_rate) and not low <= learning_rate <= high:
        wanted = f"a number from {low:g} to {high:g}"
        yield Advice("optim.learning_rate", str(learning_rate), wanted, "BERT-base takes 1e-4")


def _packages_problems(config: Config, *_: object) -> Iterator[UserError]:
    if config.train.wandb and importlib.util.find_spec("wandb") is None:
        hint = "pip install wandb, or leave the field empty"
        yield UserError("train.wandb", repr(config.train.wandb), "the package wandb", hint)


def _hosts_problems(*_: object) -> Iterator[UserError]:
    """Yields an error if some hosts of the TPU slices have not joined: each host would then train alone."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    wanted = len(hosts) * int(os.environ.get("MEGASCALE_NUM_SLICES") or 1)
    if jax.default_backend() == "tpu" and jax.process_count() < wanted:
        hint = "run the same command on every host at once"
        yield UserError(
            "hosts", str(jax.process_count()), f"{wanted}, by TPU_WORKER_HOSTNAMES and MEGASCALE_NUM_SLICES", hint
        )


def _in_every_phase(find_problems: Callable[[Config, Corpus], Iterator[UserError]]) -> Check:
    """Returns a check that finds the problems of every phase of a run; those of the last phase have no name."""

    def find_in_every_phase(config: Config, corpora: Corpora, _: epath.Path) -> Iterator[UserError]:
        in_last = set[str]()
        for phase in reversed(phases(config)):
            found: list[UserError] = []
            try:
                found.extend(find_problems(phase.config, corpora.of(phase.config)))
            except UserError as problem:  # raised by a function that the check calls; the check cannot continue
                found.append(problem)
            yield from (phase.named(problem) for problem in found if str(problem) not in in_last)
            in_last |= {str(problem) for problem in found}

    return find_in_every_phase


def _devices_problems(config: Config, *_: object) -> Iterator[UserError]:
    _check_sizes(config)
    mesh = sharding.make_mesh(config.mesh)
    kernels.check(config.model, mesh.abstract_mesh.abstract_device)
    yield from sharding.problems(config, mesh)


def _vocabulary_problems(config: Config, corpus: Corpus) -> Iterator[UserError]:
    yield from corpus.problems(config.model)
    named, recorded = config.data.vocab, corpus.manifest.vocab
    hint = "name the vocabulary that the corpus was made with, or another data.dir and prepare it"
    with bucket_errors_as_user_errors("data.vocab", named, "a vocabulary that can be read"):
        is_trained = tokenizer.find_training(named, config.data.lowercase) is not None
        exists = not is_trained and absolute(named, "data.vocab").exists()
    if exists and tokenizer.read(tokenizer.find(named)) != corpus.tokenizer:
        yield UserError("data.vocab", f"{named}, a different vocabulary", f"the vocabulary of {corpus.location}", hint)
    elif recorded.startswith("hf:") and named.startswith("hf:") and named != recorded:
        yield UserError("data.vocab", named, f"{recorded}, the vocabulary of {corpus.location}", hint)


def _same_vocabulary_problems(config: Config, corpora: Corpora, _: epath.Path) -> Iterator[UserError]:
    for location in rows_by_corpus(config):
        if corpora[location].tokenizer != corpora.of(config).tokenizer:
            found, wanted = f"a different vocabulary in {location}", f"the vocabulary of {config.data.dir}"
            yield UserError("data.dir", found, wanted, "prepare all corpora of a run with the same data.vocab")


def _epochs_problems(config: Config, corpora: Corpora, _: epath.Path) -> Iterator[UserError]:
    for location, num_read in rows_by_corpus(config).items():
        rows = corpora[location].manifest.row_counts["train"]
        if config.data.batch_size <= rows and (epochs := num_read / rows) > MAX_EPOCHS:
            found = f"{config.train.steps}, {epochs:,.0f} epochs"
            found += f" of {location}" if location != config.data.dir else ""
            hint = "shorten train.steps or prepare more text"
            yield Advice("train.steps", found, f"at most {MAX_EPOCHS} epochs", hint)


def _rows_problems(config: Config, corpus: Corpus) -> Iterator[UserError]:
    batch, rows = config.data.batch_size, corpus.manifest.row_counts["train"]
    if batch > rows:
        hint = "a batch would hold the same row twice: prepare more text"
        yield UserError("data.batch_size", str(batch), f"at most {rows}, the rows of the corpus", hint)
    for split in SPLITS:
        corpus.split(split)  # raises if it is empty or damaged
        most_maskable = corpus.manifest.most_maskable[split]
        field = "mask_rate" if split == "train" else "validation_mask_rate"
        mask_rate = getattr(config.data, field)
        if 0 <= mask_rate < 1 and round(mask_rate * most_maskable) < 1:
            found = f"at most {most_maskable} tokens in a {split} row of {corpus.folder} that can be masked"
            wanted = f"enough maskable tokens to mask one at data.{field}={mask_rate}; [UNK] is not maskable"
            yield UserError("data.dir", found, wanted, "prepare the text with a vocabulary that has its words")
    if advice := corpus.manifest.advice():
        yield advice


def _row_file_problems(config: Config, corpora: Corpora, _: epath.Path) -> Iterator[UserError]:
    for location in rows_by_corpus(config):
        try:
            corpora[location].check_row_files()
        except UserError as problem:
            yield problem


def _workdir_problems(config: Config, corpora: Corpora, workdir: epath.Path) -> Iterator[UserError]:
    check_path(workdir, "workdir")
    if is_bucket(workdir):
        check_writable_bucket(workdir)  # before the checks below, whose errors for a failing bucket are less clear
    else:
        for folder in sorted({_nearest_existing(workdir), _nearest_existing(workdir / FOLDER)}):
            _check_writable_folder(folder)
    _check_sizes(config)
    # One device is enough for shapes; `_devices_problems` checks the mesh of the run.
    with jax.set_mesh(sharding.make_mesh(MeshConfig(), jax.local_devices()[:1])):
        yield from start.problems(dataclasses.replace(config, mesh=MeshConfig()), corpora, workdir)


def _check_writable_folder(folder: epath.Path) -> None:
    probe = folder / f".symbert_jax_{uuid.uuid4().hex}"
    try:
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        found, hint = f"{folder}: {error.strerror or error}", "change its permissions or name another --workdir"
        raise UserError("workdir", found, "a folder that can be written", hint) from None


def _disk_problems(config: Config, _: Corpora, workdir: epath.Path) -> Iterator[UserError]:
    if is_bucket(workdir):  # a bucket has room for any run
        return
    _check_sizes(config)
    # One device is enough for shapes; `_devices_problems` checks the mesh of the run.
    with jax.set_mesh(sharding.make_mesh(MeshConfig(), jax.local_devices()[:1])):
        state = states.abstract(dataclasses.replace(config, mesh=MeshConfig()))
    checkpoint_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    train = config.train
    multiples = train.steps // train.keep_every if train.keep_every else 0
    num_kept = train.keep_latest + multiples + 1  # 1: the best checkpoint
    num_written = -(-train.steps // train.checkpoint_every)
    count = min(num_kept + 1, num_written)  # a new checkpoint is written before an old one is removed
    free = shutil.disk_usage(_nearest_existing(workdir)).free  # bytes
    free += sum(file_sizes(workdir / FOLDER).values())  # earlier checkpoints of this run make room for new ones
    if free < count * checkpoint_bytes:
        yield UserError(
            "workdir",
            f"{free / 1e6:,.1f} MB free for {workdir}",
            f"{count} x {checkpoint_bytes / 1e6:,.1f} MB for checkpoints",
            "use another disk or lower train.keep_latest" + ", or raise train.keep_every" * (train.keep_every > 0),
        )


CHECKS = (
    _fields_problems,
    _packages_problems,
    _hosts_problems,
    _in_every_phase(_devices_problems),
    _in_every_phase(_vocabulary_problems),
    _same_vocabulary_problems,
    _in_every_phase(_rows_problems),
    _epochs_problems,
    _workdir_problems,
    _disk_problems,
)


def _check_sizes(config: Config) -> None:
    """Raises the first problem of the fields that a check would divide by or take as sizes of arrays."""
    for problem in configs.problems(config):
        if problem.what.startswith(("model.", "mesh.", "train.", "optim.accumulate")):
            raise problem


def _nearest_existing(folder: epath.Path) -> epath.Path:
    """Returns `folder` if it exists, else the nearest path above it that does. A dangling link counts as existing.

    Only for local paths.

    Raises:
      UserError: the path cannot be examined.
    """
    try:
        os.lstat(folder)
        return folder
    except (FileNotFoundError, NotADirectoryError):
        return _nearest_existing(folder.parent)
    except OSError as error:
        raise UserError("workdir", f"{folder}: {error.strerror}", "a folder that can be written") from None
