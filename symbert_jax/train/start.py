"""The state that a run starts from: its own latest checkpoint, another run's parameters, or a seed."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
from etils import epath

from symbert_jax.checkpoint import FOLDER, Checkpoints
from symbert_jax.config import Config
from symbert_jax.data import tokenizer
from symbert_jax.data.rows import VOCAB, find
from symbert_jax.data.stream import read_words
from symbert_jax.errors import UserError
from symbert_jax.model import bert
from symbert_jax.storage import absolute
from symbert_jax.train import state as states
from symbert_jax.train.state import State

HINT = "take a new workdir, or set it back"


def first_state(config: Config, checkpoints: Checkpoints) -> State:
    """The state on the current mesh with which a run goes on, or begins."""
    return restore(config, checkpoints) or (inherit(config) if config.init_from else states.init(config))


def restore(config: Config, checkpoints: Checkpoints) -> State | None:
    """The state of the latest checkpoint on the current mesh, None where there is none."""
    if (step := checkpoints.latest()) is None:
        return None
    target = states.abstract(config)
    items = checkpoints.restore(step, params=target.params, optimizer=target.optimizer)
    return State(jax.device_put(jax.numpy.int32(step), target.step.sharding), items["params"], items["optimizer"])


def inherit(config: Config) -> State:
    """Step 0 with the parameters of `config.init_from`, on the current mesh.

    Its rows may be shorter: `bert.lengthen` says what the positions beyond them are.

    Raises:
      UserError: there is no such checkpoint, or it has other words or arrays.
    """
    with _source(config) as (checkpoints, step, target):
        params = checkpoints.restore(step, params=target)["params"]
    shardings = jax.tree.map(lambda leaf: leaf.sharding, bert.abstract(config.model, config.mesh))
    lengthen = jax.jit(bert.lengthen, static_argnums=1, out_shardings=shardings)
    return states.begin(config, lengthen(params, config.model.length))


def problems(config: Config, workdir: epath.Path) -> Iterator[UserError]:
    """What keeps `first_state` from giving the state that was meant; a `UserError` raised on the way is the last.

    Looks at shapes alone; any mesh will do.
    """
    if (workdir / FOLDER).exists():
        with contextlib.closing(Checkpoints(workdir)) as checkpoints:
            if (step := checkpoints.latest()) is not None:
                yield from _another_run(config, workdir, step, checkpoints.config(step))
                target = states.abstract(config)
                return checkpoints.compare(step, params=target.params, optimizer=target.optimizer)
    if config.init_from:
        with _source(config):
            pass


def _another_run(config: Config, workdir: epath.Path, step: int, before: Config) -> Iterator[UserError]:
    """A run that goes on must be the run that began: same words, same data order, same optimizer, same origin."""
    for field, found, wanted in (
        ("seed", config.seed, before.seed),
        ("data.batch_size", config.data.batch_size, before.data.batch_size),
        ("data.mask_rate", config.data.mask_rate, before.data.mask_rate),
        ("optim.name", config.optim.name, before.optim.name),
        ("init_from", config.init_from or "none", before.init_from or "none"),
    ):
        if found != wanted and step:  # an import has not begun
            yield UserError(field, str(found), f"{wanted}, with which {workdir} came to step {step}", HINT)
    yield from _other_words(config, workdir, HINT)


def _other_words(config: Config, workdir: epath.Path, hint: str) -> Iterator[UserError]:
    read_words(config)
    if tokenizer.read(find(config.data.dir) / VOCAB) != tokenizer.read(workdir / VOCAB):
        yield UserError("data.dir", f"another vocabulary in {config.data.dir}", f"that of {workdir}/{VOCAB}", hint)


@contextlib.contextmanager
def _source(config: Config) -> Iterator[tuple[Checkpoints, int, bert.Params]]:
    """The checkpoints that `config.init_from` names, the step, and what its parameters must look like."""
    name, _, step = config.init_from.rpartition("@")
    if not (name and step.isdigit()):
        name, step = config.init_from, ""
    workdir = absolute(name)
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        found = checkpoints.require(int(step) if step else None)
        for problem in _other_words(config, workdir, "name another init_from, or the data.dir of its words"):
            raise problem
        length = checkpoints.config(found).model.length
        if length > config.model.length:
            wanted = f"at least {length}, the length of {config.init_from}"
            raise UserError("model.length", str(config.model.length), wanted)
        target = bert.abstract(dataclasses.replace(config.model, length=length), config.mesh)
        checkpoints.compare(found, params=target)
        yield checkpoints, found, target
