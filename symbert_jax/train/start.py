"""The state that a run starts from: its own latest checkpoint, a checkpoint of another run, or a seed."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from symbert_jax.checkpoint import EMA, FOLDER, Checkpoints
from symbert_jax.config import Config, TrainConfig, to_json, values_by_name
from symbert_jax.data import tokenizer
from symbert_jax.data.corpus import Corpora, Corpus
from symbert_jax.errors import Advice, UserError
from symbert_jax.model import bert
from symbert_jax.storage import absolute, bucket_errors_as_user_errors, write_whole
from symbert_jax.train import state as states
from symbert_jax.train.phase_changes import HINT, corpus_changes, phase_changes
from symbert_jax.train.state import State

# Fields that determine the initial parameters alone.
INITIAL = ("model.pairwise_init", "model.initializer_range", "model.score_gain", "model.key_init")

# Fields that a run cannot change when it continues: with another value it would be a different run.
_FIXED = (
    "seed",
    "model.heads",
    "model.norm",
    "model.norm_eps",
    "model.rope_theta",
    "model.rope_theta_local",
    "model.window",
    "model.global_every",
    "data.final_mask_rate",
    "data.validation_mask_rate",
    "data.mask_split",
    "data.mask_unit",
    "optim.name",
    "init_from",
    "branch_from",
)
# Fields that may change without a message: they do not affect what a continued run computes, or are checked elsewhere.
_FREE = re.compile(
    r"mesh\..*|data\.(dir|sources|vocab|lowercase|validation_fraction|packing|workers|reader_threads)"
    r"|model\.(kernel|remat|unroll|pairwise_init|initializer_range|score_gain|key_init)"
    r"|train\.(log_every|checkpoint_every|keep_latest|keep_every|profile_steps|wandb)"
)
# A branch cannot change these fields of the run that it comes from.
_FIXED_IN_BRANCH = (*(field for field in _FIXED if field.startswith("model.")), "optim.name")
# Fields that a branch may also change without a message: those that it is made for, and the origin of the other run.
_FREE_IN_BRANCH = re.compile(r"init_from|branch_from|train\.steps|optim\.(schedule|decay_steps|decay_shape)")


def may_change(field: str) -> bool:
    """Whether a field may change in the middle of a run without an effect on what the run computes."""
    return bool(_FREE.fullmatch(field)) and field not in INITIAL


def restore_or_init(config: Config, corpus: Corpus, checkpoints: Checkpoints) -> State:
    """Returns the state with which a run continues or starts, on the current mesh."""
    if state := restore(config, checkpoints):
        return state
    if config.branch_from:
        with _branch_source(config) as (source, step):
            return _restore(config, source, step)
    return init_from_run(config, corpus) if config.init_from else states.init(config)


def restore(config: Config, checkpoints: Checkpoints) -> State | None:
    """Returns the state of the latest checkpoint on the current mesh, or None if there is no checkpoint."""
    step = checkpoints.latest()
    return None if step is None else _restore(config, checkpoints, step)


def _restore(config: Config, checkpoints: Checkpoints, step: int) -> State:
    """Returns the state of a checkpoint on the current mesh. Without an average, it starts from the parameters."""
    abstract_state = states.abstract(config)
    items = checkpoints.restore(step, **_items(abstract_state, checkpoints, step))
    step_array = jax.device_put(jax.numpy.int32(step), abstract_state.step.sharding)
    ema = items.get(EMA) or states.init_ema(config, items["params"])
    return State(step_array, items["params"], items["optimizer"], ema)


def _items(state: State, checkpoints: Checkpoints, step: int) -> dict[str, Any]:
    """Returns the parts of a state that a step has, by the name of the item."""
    items = {"params": state.params, "optimizer": state.optimizer}
    return items | {EMA: state.ema} if state.ema and checkpoints.has_ema(step) else items


def restore_window(config: Config, checkpoints: Checkpoints, step: int) -> dict[str, float]:
    """Returns the sums since the last log point with which a run continues or starts from a step."""
    if checkpoints.latest() is None and config.branch_from:
        with _branch_source(config) as (source, _):
            return source.window(step)
    return checkpoints.window(step)


def init_from_run(config: Config, corpus: Corpus) -> State:
    """Returns the state at step 0 with the parameters of the run `config.init_from`, on the current mesh.

    That run may have trained with shorter or longer rows; `bert.change_length` repeats or cuts its position embeddings.

    Raises:
      UserError: there is no such checkpoint, or it has a different vocabulary or different arrays.
    """
    with _source(config, corpus) as (checkpoints, step, abstract_params):
        params = checkpoints.restore(step, params=abstract_params)["params"]
    shardings = jax.tree.map(lambda leaf: leaf.sharding, bert.abstract(config.model, config.mesh))
    change_length = jax.jit(bert.change_length, static_argnums=1, out_shardings=shardings)
    return states.init_from_params(config, change_length(params, config.model.length))


def write_first_checkpoint(workdir: epath.Path, config: Config, params: bert.Params) -> None:
    """Writes parameters, with a new optimizer state, as checkpoint 0 of a workdir, and its config. Needs a mesh."""
    state = states.init_from_params(config, params)
    checkpoints = Checkpoints(workdir, TrainConfig())
    checkpoints.save(0, state.params, state.optimizer, config, validation_loss=None)
    checkpoints.close()
    write_whole(workdir / "config.json", to_json(config))


def problems(config: Config, corpora: Corpora, workdir: epath.Path) -> Iterator[UserError]:
    """Yields the reasons why `restore_or_init` would not return the intended state.

    An `Advice` is about a permitted change since the checkpoint to continue from, or about a damaged checkpoint that is
    ignored. The checkpoint to start from is read, but nothing is put on a device, so the current mesh may be any.

    Raises:
      UserError: a reason that prevents further checks.
    """
    if (workdir / FOLDER).exists():
        with contextlib.closing(Checkpoints(workdir)) as checkpoints:
            if (step := checkpoints.latest()) is not None:
                checkpoints.check_content(step)
                for other, damage in checkpoints.damaged.items():
                    found, hint = f"{checkpoints.folder}/{other} damaged: {damage}", "it is ignored; remove it"
                    yield Advice("checkpoint", found, "a whole checkpoint", hint)
                yield from _changes(config, corpora, workdir, step, checkpoints)
                _check_state(config, checkpoints, step)
                return
    if config.branch_from:
        with _branch_source(config) as (checkpoints, step):
            checkpoints.check_content(step)
            if step >= config.train.steps:
                yield UserError("train.steps", str(config.train.steps), f"more than {step}, the step of branch_from")
            yield from _changes(config, corpora, checkpoints.folder.parent, step, checkpoints, in_branch=True)
            _check_state(config, checkpoints, step)
    elif config.init_from:
        with _source(config, corpora.of(config)) as (checkpoints, step, _):
            yield from _model_changes(config, checkpoints, step)


def _model_changes(config: Config, checkpoints: Checkpoints, step: int) -> Iterator[UserError]:
    """Yields an `Advice` for each field with which a model of the same parameters computes something else.

    Such a change may be intended: another window, for example, or another wavelength for longer rows.
    """
    new, old = values_by_name(config), values_by_name(checkpoints.config(step))
    for field in (field for field in _FIXED if field.startswith("model.") and new[field] != old[field]):
        wanted = f"{old[field]}, with which {checkpoints.folder.parent} reached step {step}"
        yield Advice(field, str(new[field]), wanted, "the run starts with the new value")


def _check_state(config: Config, checkpoints: Checkpoints, step: int) -> None:
    """Raises `UserError` if the arrays of a step are not those of the state of this config."""
    checkpoints.check_shapes(step, **_items(states.abstract(config), checkpoints, step))


def _changes(
    config: Config, corpora: Corpora, workdir: epath.Path, step: int, checkpoints: Checkpoints, in_branch: bool = False
) -> Iterator[UserError]:
    """Yields a problem for each change since checkpoint `step`: of a field, the vocabulary or a corpus.

    Leaves out the fields in _FREE, and the fields whose changes `check_shapes` finds.

    in_branch: whether the checkpoint is that of another run, which this one continues.
    """
    old_config = checkpoints.config(step)
    fixed, hint = (_FIXED_IN_BRANCH, "a branch keeps it") if in_branch else (_FIXED, HINT)
    free = re.compile(f"{_FREE.pattern}|{_FREE_IN_BRANCH.pattern}") if in_branch else _FREE
    new, old = (
        {field: value if value not in ("", ()) else "none" for field, value in values_by_name(each).items()}
        for each in (config, old_config)
    )
    refused = [] if in_branch else list(phase_changes(config, old_config, workdir, step))
    yield from refused
    if not step:
        _check_norm(config, old_config, workdir, step)
        yield from _model_changes(config, checkpoints, step)
    for field, found in new.items():
        if found == old[field] or not step or free.fullmatch(field):  # step 0: `import` wrote it, no run has started
            continue
        if field in (problem.what for problem in refused):
            continue
        wanted = f"{old[field]}, with which {workdir} reached step {step}"
        if field in fixed:
            yield UserError(field, str(found), wanted, hint)
        elif not field.startswith("model.") or field.endswith(("dropout", "dtype")):  # `check_shapes` checks the others
            yield Advice(field, str(found), wanted, "the run continues with the new value")
    vocabulary_problems = list(_vocabulary_problems(corpora.of(config), workdir, hint))
    yield from vocabulary_problems
    if step and not vocabulary_problems:
        yield from corpus_changes(config, corpora, workdir, step, checkpoints.corpora_of(step), in_branch)


def _vocabulary_problems(corpus: Corpus, workdir: epath.Path, hint: str) -> Iterator[UserError]:
    if corpus.tokenizer != tokenizer.read(workdir):
        found = f"a different vocabulary in {corpus.location}"
        yield UserError("data.dir", found, f"the vocabulary of {workdir}", hint)


@contextlib.contextmanager
def _branch_source(config: Config) -> Iterator[tuple[Checkpoints, int]]:
    """Yields the checkpoints and the step that `config.branch_from` names.

    Raises:
      UserError: there is no such checkpoint.
    """
    name, _, step = config.branch_from.rpartition("@")
    with contextlib.closing(Checkpoints(absolute(name, "branch_from"))) as checkpoints:
        yield checkpoints, checkpoints.check_step(int(step))


@contextlib.contextmanager
def _source(config: Config, corpus: Corpus) -> Iterator[tuple[Checkpoints, int, bert.Params]]:
    """Yields the checkpoints and the step that `config.init_from` names, and the abstract parameters of that step.

    `init_from` is WORKDIR@STEP, or WORKDIR for its latest step; the name of a WORKDIR may itself end in @STEP.

    Raises:
      UserError: there is no such checkpoint, or it does not fit the model or the vocabulary of the corpus.
    """
    workdir, step = absolute(config.init_from, "init_from"), None
    # No step has more than 10 digits, because steps are int32.
    match = re.fullmatch("(.+)@([0-9]{1,10})", config.init_from, re.DOTALL)
    with bucket_errors_as_user_errors("init_from", workdir, "a bucket that can be read"):
        if match and not (workdir / FOLDER).exists():
            workdir, step = absolute(match[1], "init_from"), int(match[2])
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        found_step = checkpoints.check_step(step)
        checkpoints.check_content(found_step, ("params",))
        hint = "name another init_from, or a data.dir with its vocabulary"
        for problem in _vocabulary_problems(corpus, workdir, hint):
            raise problem
        model = checkpoints.config(found_step).model
        abstract_params = bert.abstract(dataclasses.replace(config.model, length=model.length), config.mesh)
        checkpoints.check_shapes(found_step, params=abstract_params)
        _check_norm(config, checkpoints.config(found_step), workdir, found_step)
        yield checkpoints, found_step, abstract_params


def _check_norm(config: Config, old_config: Config, workdir: epath.Path, step: int) -> None:
    """Raises `UserError` if the norm has another place than in a checkpoint, whose arrays have the same shapes."""
    if config.model.norm != (norm := old_config.model.norm):
        wanted = f"{norm}, with which {workdir} reached step {step}"
        raise UserError("model.norm", config.model.norm, wanted, "the parameters of one do not fit the other")
