"""The state that a run starts from: its own latest checkpoint, another run's parameters, or a seed."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath

from symbert_jax.checkpoint import FOLDER, Checkpoints
from symbert_jax.config import Config, fields
from symbert_jax.data import tokenizer
from symbert_jax.data.rows import VOCAB, find
from symbert_jax.data.stream import open_stream, read_words
from symbert_jax.errors import Advice, UserError
from symbert_jax.model import bert
from symbert_jax.storage import absolute, bucket_errors_as_user_errors
from symbert_jax.train import state as states
from symbert_jax.train.state import State

HINT = "take a new workdir, or set it back"

# What makes a run that goes on another run.
_FIXED = ("seed", "model.heads", "data.batch_size", "data.mask_rate", "optim.name", "init_from")
# What may change without a word: it does not change what is computed after the first step, or is compared otherwise.
_FREE = re.compile(
    r"mesh\..*|data\.(dir|sources|vocab|validation_fraction|reader_threads)|model\.(kernel|remat|unroll|pairwise_init)"
    r"|train\.(log_every|checkpoint_every|keep_latest|keep_every|profile_steps|wandb)"
)


def restore_or_init(config: Config, checkpoints: Checkpoints) -> State:
    """The state on the current mesh with which a run goes on, or begins."""
    return restore(config, checkpoints) or (init_from_run(config) if config.init_from else states.init(config))


def restore(config: Config, checkpoints: Checkpoints) -> State | None:
    """The state of the latest checkpoint on the current mesh, None where there is none."""
    if (step := checkpoints.latest()) is None:
        return None
    target = states.abstract(config)
    items = checkpoints.restore(step, params=target.params, optimizer=target.optimizer)
    return State(jax.device_put(jax.numpy.int32(step), target.step.sharding), items["params"], items["optimizer"])


def init_from_run(config: Config) -> State:
    """Step 0 with the parameters of `config.init_from`, on the current mesh.

    Its rows may be shorter: `bert.lengthen` says what the positions beyond them are.

    Raises:
      UserError: there is no such checkpoint, or it has other words or arrays.
    """
    with _source(config) as (checkpoints, step, target):
        params = checkpoints.restore(step, params=target)["params"]
    shardings = jax.tree.map(lambda leaf: leaf.sharding, bert.abstract(config.model, config.mesh))
    lengthen = jax.jit(bert.lengthen, static_argnums=1, out_shardings=shardings)
    return states.init_from_params(config, lengthen(params, config.model.length))


def problems(config: Config, workdir: epath.Path) -> Iterator[UserError]:
    """What keeps `restore_or_init` from giving the state that was meant; a `UserError` raised on the way is the last.

    Reads the files of the checkpoint, and places nothing on a device; any mesh will do. An `Advice` says what differs
    from the run so far, and does no harm.
    """
    if (workdir / FOLDER).exists():
        with contextlib.closing(Checkpoints(workdir)) as checkpoints:
            if (step := checkpoints.latest()) is not None:
                checkpoints.verify(step)
                for other, damage in checkpoints.damaged.items():
                    found, hint = f"{checkpoints.folder}/{other} damaged: {damage}", "it is left aside; remove it"
                    yield Advice("checkpoint", found, "a whole checkpoint", hint)
                yield from _another_run(config, workdir, step, checkpoints)
                target = states.abstract(config)
                return checkpoints.compare(step, params=target.params, optimizer=target.optimizer)
    if config.init_from:
        with _source(config):
            pass


def _another_run(config: Config, workdir: epath.Path, step: int, checkpoints: Checkpoints) -> Iterator[UserError]:
    """A run that goes on must be the run that began: same words, same data order, same optimizer, same origin."""
    now, before = (
        {field: value if value != "" else "none" for field, value in fields(each).items()}
        for each in (config, checkpoints.config(step))
    )
    for field, found in now.items():
        if found == before[field] or not step or _FREE.fullmatch(field):  # an import has not begun
            continue
        wanted = f"{before[field]}, with which {workdir} came to step {step}"
        if field in _FIXED:
            yield UserError(field, str(found), wanted, HINT)
        elif not field.startswith("model.") or field.endswith(("dropout", "dtype")):  # the others are shapes
            yield Advice(field, str(found), wanted, "the run goes on with the new value")
    words = list(_other_words(config, workdir, HINT))
    yield from words
    corpus = checkpoints.corpus_of(step)
    if step and corpus and not words and corpus != open_stream(config, np.arange(0)).fingerprint():
        yield UserError(
            "data.dir",
            f"another corpus in {config.data.dir}",
            f"the one with which {workdir} came to step {step}",
            f"name that, or begin another run from here with a new --workdir and --config.init_from={workdir}@{step}",
        )


def _other_words(config: Config, workdir: epath.Path, hint: str) -> Iterator[UserError]:
    read_words(config)
    if tokenizer.read(find(config.data.dir) / VOCAB) != tokenizer.read(workdir / VOCAB):
        yield UserError("data.dir", f"another vocabulary in {config.data.dir}", f"that of {workdir}/{VOCAB}", hint)


@contextlib.contextmanager
def _source(config: Config) -> Iterator[tuple[Checkpoints, int, bert.Params]]:
    """The checkpoints that `config.init_from` names, the step, and what its parameters must look like.

    WORKDIR@STEP, or WORKDIR, which may itself end like that, for its latest.
    """
    workdir, step = absolute(config.init_from, "init_from"), None
    named = re.fullmatch("(.+)@([0-9]{1,10})", config.init_from, re.DOTALL)
    with bucket_errors_as_user_errors("init_from", workdir, "a bucket that can be read"):
        if named and not (workdir / FOLDER).exists():
            workdir, step = absolute(named[1], "init_from"), int(named[2])
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        found = checkpoints.require(step)
        checkpoints.verify(found, ("params",))
        for problem in _other_words(config, workdir, "name another init_from, or the data.dir of its words"):
            raise problem
        length = checkpoints.config(found).model.length
        if length > config.model.length:
            wanted = f"at least {length}, the length of {config.init_from}"
            raise UserError("model.length", str(config.model.length), wanted)
        target = bert.abstract(dataclasses.replace(config.model, length=length), config.mesh)
        checkpoints.compare(found, params=target)
        yield checkpoints, found, target
