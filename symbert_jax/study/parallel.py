"""Trains runs of one arm, which differ in learning rate and seed, side by side as one program.

A small model leaves an accelerator idle otherwise. Each run reads its own batches and writes its own workdir, whose
files are those of `pretrain`; its numbers differ from those of `pretrain` by rounding alone.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from symbert_jax.batch import MlmBatch
from symbert_jax.checkpoint import LOSS, Checkpoints
from symbert_jax.config import Config, tokens_until
from symbert_jax.data.corpus import Corpora, Corpus
from symbert_jax.data.stream import Stream, open_stream
from symbert_jax.distributed import Stop, workdir_lock
from symbert_jax.metrics import TOKENS, Clock, Metrics, Values
from symbert_jax.progress import Progress
from symbert_jax.sharding import local_row_indices, make_mesh, put_batches
from symbert_jax.study.plan import Run
from symbert_jax.train import diagnose
from symbert_jax.train.doctor import check
from symbert_jax.train.events import count_due, is_due
from symbert_jax.train.loop import write_run_files
from symbert_jax.train.optimizer import schedule
from symbert_jax.train.start import restore_or_init
from symbert_jax.train.state import State
from symbert_jax.train.step import DROPOUT_STREAM, Sums, make_update, mlm_objective
from symbert_jax.train.validate import check_targets, validation_sums
from symbert_jax.train.window import Diverged, Window


@dataclasses.dataclass
class Member:
    """One of the runs that train side by side."""

    run: Run
    stream: Stream
    checkpoints: Checkpoints
    metrics: Metrics
    window: Window  # the steps since the last log point
    is_active: bool = True  # whether its sums are finite so far

    @contextlib.contextmanager
    def dropped_if_diverged(self) -> Iterator[None]:
        """Marks the run if it diverges inside of the context; the others continue."""
        try:
            yield
        except Diverged as error:
            self.is_active = False
            self.run.mark_diverged(str(error))
            print(f"{self.run.name}: {error}", flush=True)


def train_side_by_side(runs: Sequence[Run]) -> None:
    """Trains runs to their last step, each from its latest checkpoint, until a signal stops them with a checkpoint.

    Runs with another latest step than the first, which a kill between two checkpoints leaves behind, train after it.

    Raises:
      UserError: as `pretrain`, except that a run that diverges ends alone.
    """
    with Stop() as stop, contextlib.ExitStack() as stack:
        corpora = Corpora()
        corpus = corpora.of(runs[0].config)
        for run in runs:
            stack.enter_context(workdir_lock(run.workdir))
            check(run.config, corpora, run.workdir)
        stack.enter_context(jax.set_mesh(make_mesh(runs[0].config.mesh)))
        latest: dict[int, list[Run]] = {}
        for run in runs:
            with contextlib.closing(Checkpoints(run.workdir, run.config.train)) as checkpoints:
                latest.setdefault(checkpoints.latest() or 0, []).append(run)
        for start, together in sorted(latest.items()):
            if start < runs[0].config.train.steps and not stop.received:
                _train(together, corpus, start, stop)


def _train(runs: Sequence[Run], corpus: Corpus, start: int, stop: Stop) -> None:
    """Trains runs that have reached the same step. The order of events is that of `loop`."""
    config = runs[0].config
    train = config.train
    with contextlib.ExitStack() as stack:
        members = [_open(run, corpus, start, stack) for run in runs]
        progress = stack.enter_context(Progress("steps", train.steps, start))
        group = Group(members, progress, Clock(start), start)
        state = group.init(corpus)
        group.validate_if_missed(start, state)
        for step, batch in enumerate(put_batches(group.batches(start), "RB"), start=start + 1):
            state = group.update(step, state, batch)
            if step == start + 1:
                group.start_clock(step)
            if is_due(step, train.log_every, train.steps):
                group.log(step)
            signal = stop.should_stop(step - start)
            losses: list[float | None] = [None] * len(members)
            if is_due(step, train.validate_every, train.steps) and (not signal or step == train.steps):
                losses = group.validate(step, state)
            if is_due(step, train.checkpoint_every, train.steps) or signal:
                group.save(step, state, losses)
            if signal or not any(member.is_active for member in members):
                break


def _open(run: Run, corpus: Corpus, start: int, stack: contextlib.ExitStack) -> Member:
    """Opens the files of a run."""
    config = run.config
    stream = open_stream(config, corpus, local_row_indices(config.data.batch_size, jax.sharding.get_mesh()))
    check_targets(config, stream)
    write_run_files(config, corpus, run.workdir)
    checkpoints = stack.enter_context(contextlib.closing(Checkpoints(run.workdir, config.train, corpus.fingerprint)))
    metrics = stack.enter_context(contextlib.closing(Metrics(run.workdir, start, config.train.wandb)))
    checkpoints.losses |= metrics.values(LOSS)
    return Member(run, stream, checkpoints, metrics, Window("train", checkpoints.window(start) if start else None))


class Group:
    """The events of runs that train side by side: arrays have a leading dimension R."""

    def __init__(self, members: Sequence[Member], progress: Progress, clock: Clock, start: int):
        self.members, self.progress, self.clock = members, progress, clock
        self.config = config = members[0].run.config
        self.pending: list[Sums] = []  # of the steps since they were last read
        self.seeds = np.array([member.run.seed for member in members], np.uint32)
        steps = jnp.arange(config.train.steps)
        schedules = [schedule(member.run.config.optim, config.train.steps)(steps) for member in members]
        self.learning_rates = np.stack(schedules, axis=1).astype(np.float32)  # [steps, R]
        stream, cross_document = members[0].stream, config.data.cross_document
        self.train_step = make_train_step(config, stream.may_lack_targets, stream.pad)
        objective = functools.partial(mlm_objective, config.model, cross_document=cross_document, pad=stream.pad)
        self.validation_step = jax.jit(
            jax.vmap(lambda params, batch: objective(params, batch, None), in_axes=(0, None))
        )
        self.diagnose = jax.jit(jax.vmap(functools.partial(diagnose.compute, config, stream.pad), in_axes=(0, None)))
        self.sample = diagnose.sample_batch(stream)
        self.select = jax.jit(lambda state, member: jax.tree.map(lambda leaf: leaf[member], state), static_argnums=1)

    def init(self, corpus: Corpus) -> State:
        """Returns the states from which the runs start or continue."""
        states = [restore_or_init(member.run.config, corpus, member.checkpoints) for member in self.members]
        stacked: State = jax.jit(lambda *states: jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))(*states)
        return stacked

    def batches(self, start: int) -> Iterator[MlmBatch]:
        """Yields the batches of all runs, [R, B, …]."""
        train, threads = self.config.train, self.config.data.reader_threads
        streams = [member.stream.batches(start, train.steps, threads) for member in self.members]
        for batches in zip(*streams, strict=True):
            yield jax.tree.map(lambda *rows: np.stack(rows), *batches)

    def update(self, step: int, state: State, batch: MlmBatch) -> State:
        """Takes one step of every run."""
        jax.block_until_ready(self.pending[-1:])
        with self.progress.step(self.train_step, name="the training step"):
            state, sums = self.train_step(state, batch, self.seeds, self.learning_rates[step - 1])
        self.pending.append(sums)
        self.progress.finish()
        return state

    def start_clock(self, step: int) -> None:
        jax.block_until_ready(self.pending)
        self.clock.start(step)

    def log(self, step: int) -> None:
        """Writes the averages of every run and the speed since the last log point."""
        self._read()
        lap = self.clock.lap(step)
        self.progress.measure(lap.steps, lap.seconds)
        padding = {self.config.data.dir: self.members[0].stream.padding}  # these runs have a single phase
        speed = lap.speed(tokens_until(self.config, 1, padding), 0.0, None)
        tokens = tokens_until(self.config, step, padding)
        losses = []
        for member in self._active():
            with member.dropped_if_diverged():
                values = member.window.averages(step)
                if member.window.empty_batches:
                    values["train/empty_steps"] = member.window.empty_batches
                member.window.clear()
                index = self.members.index(member)
                values["train/learning_rate"] = float(self.learning_rates[step - 1, index])
                member.metrics.write(step, values | speed | {TOKENS: float(tokens)})
                losses.append(f"{values.get('train/loss', float('nan')):.4f}")
        text = f"loss {' '.join(losses)}"
        total = f"step {step:,}/{self.config.train.steps:,}  {text}"
        self.progress.show(text, "  ".join(filter(None, (total, self.progress.eta))))

    def validate(self, step: int, state: State, missed: Sequence[Member] | None = None) -> list[float | None]:
        """Writes the validation metrics of every run, and returns its loss, None for a run that diverged.

        missed: the runs that are validated; None: all.
        """
        windows, train = [Window("validation") for _ in self.members], self.config.train
        remaining = count_due(step, train.validate_every, train.steps)
        with self.clock.pause(self.pending), self.progress.pause(remaining):
            batches = self.members[0].stream.validation_batches(train.validate_batches)  # of every run
            for batch in put_batches(batches):
                with self.progress.step(self.validation_step, work=0, name="validation"):
                    sums = jax.device_get(validation_sums(self.validation_step, state, batch))
                for index, window in enumerate(windows):
                    window.add(_take(sums, index))
            with self.progress.step(self.diagnose, work=0, name="the statistics of attention"):
                statistics = jax.device_get(self.diagnose(state.params, self.sample))
        losses: list[float | None] = [None] * len(self.members)
        validated = self._active() if missed is None else missed
        for member in validated:
            index = self.members.index(member)
            with member.dropped_if_diverged():
                values: Values = windows[index].averages(step)
                member.metrics.write(step, values | diagnose.to_values(_take(statistics, index)))
                losses[index] = member.checkpoints.losses[step] = values[LOSS]
        self.progress.say(
            f"step {step:,} validation loss "
            + " ".join(
                "diverged" if loss is None else f"{loss:.4f}"
                for member, loss in zip(self.members, losses, strict=True)
                if member in validated or not member.is_active
            )
        )
        return losses

    def validate_if_missed(self, step: int, state: State) -> None:
        """Validates the checkpoints from which the runs resume, where a signal prevented it."""
        missed = [member for member in self.members if step not in member.checkpoints.losses]
        if missed and step > 0 and is_due(step, self.config.train.validate_every, self.config.train.steps):
            self.validate(step, state, missed)

    def save(self, step: int, state: State, losses: Sequence[float | None]) -> None:
        """Saves a checkpoint of every run with the sums since its last log point."""
        with self.clock.pause(self.pending):
            self._read()
            for member in self._active():
                index = self.members.index(member)
                with member.dropped_if_diverged():
                    sums = member.window.to_save(step)
                    own: State = self.select(state, index)
                    config, loss = member.run.config, losses[index]
                    member.checkpoints.save(step, own.params, own.optimizer, config, loss, sums, own.ema)

    def _active(self) -> list[Member]:
        return [member for member in self.members if member.is_active]

    def _read(self) -> None:
        """Adds the sums of the steps since the last call to the windows of the runs."""
        for sums in jax.device_get(self.pending):
            for index, member in enumerate(self.members):
                member.window.add(_take(sums, index))
        self.pending.clear()


def make_train_step(
    config: Config, may_lack_targets: bool, pad: int | None
) -> Callable[[State, MlmBatch, UInt32[np.ndarray, " R"], Float[np.ndarray, " R"]], tuple[State, Sums]]:
    """Returns the compiled step (states, batches, seeds, learning rates) -> (states, sums). It consumes the states.

    may_lack_targets, pad: see `step.make_train_step`.
    """
    objective = functools.partial(mlm_objective, config.model, cross_document=config.data.cross_document, pad=pad)
    update = make_update(objective, config.optim, may_lack_targets)

    def step(
        state: State, batch: MlmBatch, seed: UInt32[Array, ""], learning_rate: Float[Array, ""]
    ) -> tuple[State, Sums]:
        return update(state, batch, jax.random.fold_in(jax.random.key(seed), DROPOUT_STREAM), learning_rate)

    return jax.jit(jax.vmap(step), donate_argnums=0)


def _take(tree: Any, index: int) -> Any:
    """Returns the numpy arrays of one run from those of all."""
    return jax.tree.map(lambda leaf: np.asarray(leaf[index]), tree)
