"""The order of events of a pretraining run.

Batch i takes state i to state i + 1, and checkpoint s holds the state after s updates: the same command, run again,
goes on from the latest checkpoint exactly as if it had never stopped.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator

import jax
from etils import epath

from symbert_jax.batch import MlmBatch
from symbert_jax.checkpoint import LOSS, Checkpoints
from symbert_jax.chips import peak_flops
from symbert_jax.config import Config, fields, to_json
from symbert_jax.data import tokenizer
from symbert_jax.data.corpus import Corpus
from symbert_jax.data.stream import Stream, open_stream
from symbert_jax.data.vocabulary import VOCAB
from symbert_jax.distributed import (
    Stop,
    broadcast_from_main,
    connect,
    exit_on_lost_peer,
    is_main_process,
    require_shared,
    same_on_all_processes,
    workdir_lock,
)
from symbert_jax.errors import UserError
from symbert_jax.metrics import Metrics, Values
from symbert_jax.model import bert, kernels
from symbert_jax.model.flops import train_flops
from symbert_jax.sharding import local_row_indices, make_mesh, put_batch
from symbert_jax.storage import write_whole
from symbert_jax.train.doctor import check
from symbert_jax.train.optimizer import schedule
from symbert_jax.train.start import restore_or_init
from symbert_jax.train.state import State
from symbert_jax.train.step import Sums, make_train_step
from symbert_jax.train.trace import Trace
from symbert_jax.train.validate import check_targets, make_validation_step
from symbert_jax.train.window import Window

PREFETCH = 2  # batches put on the devices before they are needed


def pretrain(config: Config, workdir: epath.Path) -> None:
    """Trains to `config.train.steps`, from the latest checkpoint in `workdir` if there is one.

    SIGTERM, SIGHUP or Ctrl-C to any process ends the run after the step in flight, with a checkpoint.

    Raises:
      UserError: the config, the corpus, the workdir and the devices do not fit each other or are not the same on every
        process, another run uses the workdir, or the loss is not a number.
    """
    corpus = Corpus(config.data.dir)
    with Stop() as stop, workdir_lock(workdir):
        with same_on_all_processes() as facts:
            check(config, corpus, workdir)
            mesh = make_mesh(config.mesh)
            stream = open_stream(config, corpus, local_row_indices(config.data.batch_size, mesh))
            check_targets(config, stream)
            facts |= fields(config) | {"data.dir": f"corpus {corpus.fingerprint[:16]}"}
        with (
            jax.set_mesh(mesh),
            contextlib.closing(Checkpoints(workdir, config.train, corpus.fingerprint)) as checkpoints,
            exit_on_lost_peer(),
        ):
            connect()
            require_shared(workdir)
            with same_on_all_processes() as facts:
                facts["workdir"] = checkpoints.latest()
            state = restore_or_init(config, corpus, checkpoints)
            if (start := int(state.step)) < config.train.steps:
                if is_main_process():
                    write_run_files(config, corpus, workdir)
                _train(config, workdir, stream, checkpoints, state, start, stop)
            elif is_main_process():
                print(f"{workdir} is at step {start:,} of {config.train.steps:,} already: nothing to do")


def _train(
    config: Config, workdir: epath.Path, stream: Stream, checkpoints: Checkpoints, state: State, start: int, stop: Stop
) -> None:
    """Takes the steps from `start` on. The loop at the end is the order of events, each with the reason for it."""
    train = config.train
    train_step = make_train_step(config, stream.may_lack_targets)
    window = Window(checkpoints.window(start) if start else {})
    with (
        contextlib.closing(Metrics(workdir, start, train.steps, train.wandb)) as metrics,
        Trace(workdir, train.profile_steps) as trace,
    ):
        events = _Events(config, stream, checkpoints, metrics, window)
        metrics.say(_opening(config, stream, start))
        checkpoints.losses |= metrics.values(LOSS)
        if (
            start
            and _is_due(start, train.validate_every, train.steps)
            and broadcast_from_main(start not in checkpoints.losses)
        ):
            checkpoints.losses[start] = events.validate(start, state)  # a signal came before it
        batches = _on_device(stream.batches(start, train.steps, config.data.reader_threads))
        for step in range(start + 1, train.steps + 1):
            with metrics.wait(window.last):
                batch = next(batches)
            jax.block_until_ready(window.last)  # keeps the host at most one step ahead of the devices
            with trace.step(step, window.last):
                state, sums = train_step(state, batch)
            window.add(sums)
            if step == start + 1:  # the first step compiles, so speed counts from its end
                jax.block_until_ready(sums)
                metrics.begin(step)
            if _is_due(step, train.log_every, train.steps):
                events.log(step)  # before the checkpoint, which saves the sums since the last log point
            signal = stop.should_stop(step - start)  # after every step, as processes agree on one by its number
            loss = None
            if _is_due(step, train.validate_every, train.steps) and (not signal or step == train.steps):
                loss = events.validate(step, state)  # before the checkpoint, which is kept if its loss is the best
            if _is_due(step, train.checkpoint_every, train.steps) or signal:
                events.save(step, state, loss)  # after a signal without a validation: the next start makes up for it
            if signal:
                metrics.say(f"{signal}: saved step {step:,}; the same command goes on from there")
                break


@dataclasses.dataclass(frozen=True)
class _Events:
    """What happens between steps. Nothing is written before it has been found finite."""

    config: Config
    stream: Stream
    checkpoints: Checkpoints
    metrics: Metrics
    window: Window

    def log(self, step: int) -> None:
        """Writes and prints the averages and the speed since the last log point."""
        values = self.window.averages()
        values["train/learning_rate"] = float(schedule(self.config.optim, self.config.train.steps)(step - 1))
        self.window.clear()
        _check_finite(values, step)
        values |= self.metrics.speed(step, *_cost(self.config, self.stream))
        self.metrics.write(step, values)
        self.metrics.report(step, values)

    def validate(self, step: int, state: State) -> float:
        """Writes and prints the validation loss, and returns it."""
        with self.metrics.pause(self.window.last):
            batches = _on_device(self.stream.validation_batches(self.config.train.validate_batches))
            parts = jax.device_get([self._validation_step(state.params, batch) for batch in batches])
            total = {name: float(sum(part[name] for part in parts)) for name in parts[0]}
            loss, accuracy = total["loss"] / total["count"], total["correct"] / total["count"]
            values = {LOSS: loss, "validation/accuracy": accuracy}
            _check_finite(values, step)
            self.metrics.write(step, values)
            self.metrics.say(f"step {step:,} validation loss {loss:.4f}")
        return loss

    def save(self, step: int, state: State, loss: float | None) -> None:
        """Saves a checkpoint with the sums since the last log point."""
        with self.metrics.pause(self.window.last):
            total = self.window.total()
            _check_finite({f"train/{name}": value for name, value in total.items()}, step)
            self.checkpoints.save(step, state.params, state.optimizer, self.config, loss, total)

    @functools.cached_property
    def _validation_step(self) -> Callable[[bert.Params, MlmBatch], Sums]:
        return make_validation_step(self.config)


def _is_due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def _on_device(batches: Iterator[MlmBatch]) -> Iterator[MlmBatch]:
    """Yields the batches on the devices; the transfers of `PREFETCH` batches run ahead of their use."""
    queue = collections.deque(put_batch(batch) for batch in itertools.islice(batches, PREFETCH))
    while queue:
        yield queue.popleft()
        queue.extend(put_batch(batch) for batch in itertools.islice(batches, 1))


def _cost(config: Config, stream: Stream) -> tuple[int, float, float | None]:
    """Returns tokens and model FLOPs of a step, and the peak FLOP/s of all devices together where it is known."""
    mesh = jax.sharding.get_mesh()
    peak = peak_flops(mesh.devices.flat[0].device_kind)
    flops = train_flops(config.model, config.data.batch_size, stream.masking.max_predictions)
    return config.data.batch_size * config.model.length, flops, peak and peak * mesh.size


def write_run_files(config: Config, corpus: Corpus, workdir: epath.Path) -> None:
    """Writes the config and the vocabulary to the workdir, so that its checkpoints can be read without the corpus."""
    workdir.mkdir(parents=True, exist_ok=True)
    tokenizer.write(corpus.tokenizer, workdir / VOCAB)
    write_whole(workdir / "config.json", to_json(config))


def _check_finite(values: Values, step: int) -> None:
    """Raises `UserError` where a value is not finite, before a broken state replaces the good checkpoints."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                name,
                f"{value} at step {step}",
                "a finite number",
                "the checkpoints before it stand; lower optim.learning_rate or lengthen optim.warmup_steps",
            )


def _opening(config: Config, stream: Stream, start: int) -> str:
    """Returns the first line of a run: model, devices, rows and where it starts."""
    mesh = jax.sharding.get_mesh()
    shape = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    epochs = config.train.steps * config.data.batch_size / len(stream.train)
    length, device = config.model.length, mesh.abstract_mesh.abstract_device
    kernel = kernels.choose(config.model, device, length, length)
    origin = f", with the parameters of {config.init_from}" if config.init_from and not start else ""
    return (
        f"{config.model.attention} BERT, {bert.size(config.model):,} parameters, "
        f"on {mesh.size} {mesh.devices.flat[0].device_kind} ({shape}), {kernel} attention; "
        f"{len(stream.train):,} rows of {config.model.length} tokens, {epochs:.2g} epochs; from step {start:,}{origin}"
    )
