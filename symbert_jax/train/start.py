"""The state that a run starts from: its own latest checkpoint, another run's parameters, or a seed."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence

import jax
from etils import epath

from symbert_jax.checkpoint import FOLDER, Checkpoints
from symbert_jax.config import Config, phase_of, phases, rows_by_corpus, values_by_name
from symbert_jax.data import tokenizer
from symbert_jax.data.corpus import Corpora, Corpus
from symbert_jax.data.vocabulary import VOCAB
from symbert_jax.errors import Advice, UserError
from symbert_jax.model import bert
from symbert_jax.storage import absolute, bucket_errors_as_user_errors
from symbert_jax.train import state as states
from symbert_jax.train.state import State

# Fields that determine the initial parameters alone.
INITIAL = ("model.pairwise_init", "model.initializer_range", "model.score_gain", "model.key_init")
HINT = "use a new workdir, or restore the old value"

# Fields that a run cannot change when it continues: with another value it would be a different run.
_FIXED = (
    "seed",
    "model.heads",
    "data.final_mask_rate",
    "data.validation_mask_rate",
    "data.mask_split",
    "data.mask_unit",
    "optim.name",
    "init_from",
)
# Fields that may change without a message: they do not affect what a continued run computes, or are checked elsewhere.
_FIXED_IN_PHASE = ("data.batch_size", "data.mask_rate")  # of these, only those of phases to come can change
_FREE = re.compile(
    r"mesh\..*|data\.(dir|sources|vocab|validation_fraction|reader_threads)"
    r"|model\.(kernel|remat|unroll|pairwise_init|initializer_range|score_gain|key_init)"
    r"|train\.(log_every|checkpoint_every|keep_latest|keep_every|profile_steps|wandb)"
)


def may_change(field: str) -> bool:
    """Whether a field may change in the middle of a run without an effect on what the run computes."""
    return bool(_FREE.fullmatch(field)) and field not in INITIAL


def restore_or_init(config: Config, corpus: Corpus, checkpoints: Checkpoints) -> State:
    """Returns the state with which a run continues or starts, on the current mesh."""
    return restore(config, checkpoints) or (init_from_run(config, corpus) if config.init_from else states.init(config))


def restore(config: Config, checkpoints: Checkpoints) -> State | None:
    """Returns the state of the latest checkpoint on the current mesh, or None if there is no checkpoint."""
    if (step := checkpoints.latest()) is None:
        return None
    abstract_state = states.abstract(config)
    items = checkpoints.restore(step, params=abstract_state.params, optimizer=abstract_state.optimizer)
    step_array = jax.device_put(jax.numpy.int32(step), abstract_state.step.sharding)
    return State(step_array, items["params"], items["optimizer"])


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


def problems(config: Config, corpora: Corpora, workdir: epath.Path) -> Iterator[UserError]:
    """Yields the reasons why `restore_or_init` would not return the intended state.

    An `Advice` is about a permitted change since the latest checkpoint, or about a damaged checkpoint that is ignored.
    The checkpoint to start from is read, but nothing is put on a device, so the current mesh may be any.

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
                state = states.abstract(config)
                checkpoints.check_shapes(step, params=state.params, optimizer=state.optimizer)
                return
    if config.init_from:
        with _source(config, corpora.of(config)):
            pass


def _changes(
    config: Config, corpora: Corpora, workdir: epath.Path, step: int, checkpoints: Checkpoints
) -> Iterator[UserError]:
    """Yields a problem for each change since checkpoint `step`: of a field, the vocabulary or a corpus.

    Leaves out the fields in _FREE, and the fields whose changes `check_shapes` finds.
    """
    old_config = checkpoints.config(step)
    new, old = (
        {field: value if value not in ("", ()) else "none" for field, value in values_by_name(each).items()}
        for each in (config, old_config)
    )
    refused = list(_phase_changes(config, old_config, workdir, step))
    yield from refused
    for field, found in new.items():
        if found == old[field] or not step or _FREE.fullmatch(field):  # step 0: `import` wrote it, no run has started
            continue
        if field in (problem.what for problem in refused):
            continue
        wanted = f"{old[field]}, with which {workdir} reached step {step}"
        if field in _FIXED:
            yield UserError(field, str(found), wanted, HINT)
        elif not field.startswith("model.") or field.endswith(("dropout", "dtype")):  # `check_shapes` checks the others
            yield Advice(field, str(found), wanted, "the run continues with the new value")
    vocabulary_problems = list(_vocabulary_problems(corpora.of(config), workdir, HINT))
    yield from vocabulary_problems
    if step and not vocabulary_problems:
        yield from _corpus_changes(config, corpora, workdir, step, checkpoints.corpora_of(step))


def _phase_changes(config: Config, old_config: Config, workdir: epath.Path, step: int) -> Iterator[UserError]:
    """Yields an error for each field of a phase that had another value in one of the `step` batches so far."""
    starts = {phase.steps.start for each in (config, old_config) for phase in phases(each)}
    reported = set[str]()
    for start in sorted(start for start in starts if start < step):
        new, old = (values_by_name(phase_of(each, start).config) for each in (config, old_config))
        where = f" from step {start} on" if len(starts) > 1 else ""
        # `check_shapes` finds another model.length of a run of one phase.
        for field in (*_FIXED_IN_PHASE, *(("model.length",) if len(starts) > 1 else ())):
            if field not in reported and new[field] != old[field]:
                reported.add(field)
                wanted = f"{old[field]}, with which {workdir} reached step {step}"
                yield UserError(field, f"{new[field]}{where}", wanted, HINT)
        # A corpus may have moved, so its number in the order of use is compared; `_corpus_changes` compares the rows.
        (new_corpus, old_corpus) = (_corpus_number(each, start) for each in (config, old_config))
        if new_corpus != old_corpus and "data.dir" not in reported:
            reported.add("data.dir")
            wanted = f"{old['data.dir']}, with which {workdir} reached step {step}"
            yield UserError("data.dir", f"{new['data.dir']}{where}", wanted, HINT)


def _corpus_number(config: Config, batch: int) -> int:
    return list(rows_by_corpus(config)).index(phase_of(config, batch).config.data.dir)


def _corpus_changes(
    config: Config, corpora: Corpora, workdir: epath.Path, step: int, recorded: Sequence[str]
) -> Iterator[UserError]:
    """Yields an error for another corpus than a past phase read, an `Advice` for another one in a phase to come.

    recorded: the fingerprints of the corpora of the run that saved checkpoint `step`.
    """
    first_steps: dict[str, int] = {}
    for phase in phases(config):
        first_steps.setdefault(phase.config.data.dir, phase.steps.start)
    for (location, first), fingerprint in zip(first_steps.items(), recorded, strict=False):
        if corpora[location].fingerprint == fingerprint:
            continue
        found, wanted = f"a different corpus in {location}", f"the corpus with which {workdir} reached step {step}"
        if first < step:
            hint = f"a new run from here: a new --workdir and --config.init_from={workdir}@{step}"
            yield UserError("data.dir", found, wanted, f"name that corpus, or start {hint}")
        else:
            wanted = f"the corpus that was there when {workdir} reached step {step}"
            yield Advice("data.dir", found, wanted, f"its phase begins at step {first:,} and reads the new one")


def _vocabulary_problems(corpus: Corpus, workdir: epath.Path, hint: str) -> Iterator[UserError]:
    if corpus.tokenizer != tokenizer.read(workdir / VOCAB):
        found = f"a different vocabulary in {corpus.location}"
        yield UserError("data.dir", found, f"the vocabulary of {workdir}/{VOCAB}", hint)


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
        length = checkpoints.config(found_step).model.length
        abstract_params = bert.abstract(dataclasses.replace(config.model, length=length), config.mesh)
        checkpoints.check_shapes(found_step, params=abstract_params)
        yield checkpoints, found_step, abstract_params
