"""The events of a run: a step, a log point, a validation, a checkpoint. `loop` says in which order they happen."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax

from symbert_jax.batch import MlmBatch
from symbert_jax.checkpoint import LOSS, Checkpoints
from symbert_jax.chips import peak_flops
from symbert_jax.config import Config, tokens_per_batch, tokens_until
from symbert_jax.distributed import broadcast_from_main
from symbert_jax.metrics import TOKENS, Clock, Metrics, Values, describe
from symbert_jax.model import bert
from symbert_jax.progress import Progress
from symbert_jax.sharding import put_batches
from symbert_jax.train.optimizer import schedule
from symbert_jax.train.phases import OpenPhase
from symbert_jax.train.state import State
from symbert_jax.train.step import Sums
from symbert_jax.train.trace import Trace
from symbert_jax.train.validate import validation_sums
from symbert_jax.train.window import Window

EMA_LOSS = "validation/ema_loss"
ESSENTIAL = ("train/loss", "speed/tokens_per_second")  # the metrics that fit beside a progress bar in 80 columns


@dataclasses.dataclass(frozen=True)
class Events:
    """Every process takes part in every event; the main process alone writes and prints."""

    config: Config
    phases: Sequence[OpenPhase]
    checkpoints: Checkpoints
    metrics: Metrics
    progress: Progress
    trace: Trace
    window: Window  # the steps since the last log point
    clock: Clock
    validation_step: Callable[[bert.Params, MlmBatch], Sums]

    def phase_of(self, step: int) -> OpenPhase:
        """Returns the phase of the batch that leads to state `step`."""
        return next(opened for opened in self.phases if step <= opened.phase.steps.stop)

    def is_first_of_phase(self, step: int) -> bool:
        """Whether the batch that leads to state `step` is the first of its phase."""
        return step - 1 == self.phase_of(step).phase.steps.start

    def wait_for(self, batches: Iterator[MlmBatch]) -> MlmBatch:
        """Returns the next batch, and measures how long the devices wait for it."""
        with self.clock.wait(self.window.last):
            return next(batches)

    def update(self, step: int, state: State, batch: MlmBatch) -> State:
        """Takes one step and returns the new state. The host runs at most one step ahead of the devices."""
        jax.block_until_ready(self.window.last)
        opened = self.phase_of(step)
        with (
            self.progress.step(opened.train_step, opened.flops, opened.step_name),
            self.trace.step(step, self.window.last),
        ):
            state, sums = opened.train_step(state, batch)
        self.window.add(sums)
        self.progress.finish()
        return state

    def start_clock(self, step: int) -> None:
        """Starts to measure the speed at the end of `step`, whose time includes the compilation.

        If there is no log point at the step, the speed of the steps before it since the last log point is lost.
        """
        jax.block_until_ready(self.window.last)
        self.clock.start(step)

    def log(self, step: int) -> None:
        """Writes and shows the averages and the speed since the last log point."""
        values = self.window.averages(step)
        if self.window.empty_batches:
            values["train/empty_steps"] = self.window.empty_batches
        self.window.clear()
        values["train/learning_rate"] = float(schedule(self.config.optim, self.config.train.steps)(step - 1))
        lap = self.clock.lap(step)
        opened = self.phase_of(step)  # of all steps of the lap, because a phase starts the clock anew
        if lap.steps:
            self.progress.measure(lap.steps * opened.flops, lap.seconds, opened.train_step)
        values |= lap.speed(*self._cost(step))
        self.metrics.write(step, values | {TOKENS: float(self._tokens_until(step))})
        self._show(step, values)

    def validate(self, step: int, state: State) -> float:
        """Writes the metrics of a validation and the statistics of attention; prints and returns the loss.

        The rows are those of the phase that led to `step`: the parameters have seen no others of their length.
        """
        phase, train = self.phase_of(step), self.config.train
        remaining = count_due(step, train.validate_every, train.steps)
        with self.clock.pause(self.window.last), self.progress.pause(remaining):
            window = Window("validation")
            for batch in put_batches(phase.validation.validation_batches(train.validate_batches)):
                with self.progress.step((self.validation_step, batch.tokens.shape), work=0, name="validation"):
                    window.add(validation_sums(self.validation_step, state, batch))
            values = window.averages(step)
            with self.progress.step(phase.diagnose, work=0, name="the statistics of attention"):
                statistics = phase.diagnose(state.params)
            self.metrics.write(step, values | statistics)
            of_average = f", {values[EMA_LOSS]:.4f} of the average" if EMA_LOSS in values else ""
            self.progress.say(f"step {step:,} validation loss {values[LOSS]:.4f}{of_average}")
        return values[LOSS]

    def validate_if_missed(self, step: int, state: State) -> None:
        """Validates the checkpoint that the run resumes from, if a signal prevented its validation.

        First reads the losses of earlier validations from the metrics of the run.
        """
        self.checkpoints.losses |= self.metrics.values(LOSS)
        is_missed = step > 0 and is_due(step, self.config.train.validate_every, self.config.train.steps)
        if is_missed and broadcast_from_main(step not in self.checkpoints.losses):
            self.checkpoints.losses[step] = self.validate(step, state)

    def save(self, step: int, state: State, loss: float | None) -> None:
        """Saves a checkpoint with the sums since the last log point.

        loss: the validation loss of this state; None if it was not validated.
        """
        with self.clock.pause(self.window.last):
            window = self.window.to_save(step)
            self.checkpoints.save(step, state.params, state.optimizer, self.config, loss, window, state.ema)

    def _tokens_until(self, step: int) -> int:
        """Returns the tokens that the run has read when it has reached a step, without padding."""
        padding = {opened.phase.config.data.dir: opened.stream.padding for opened in self.phases}
        return tokens_until(self.config, step, padding)

    def _cost(self, step: int) -> tuple[int, float, float | None]:
        """Returns the tokens, without padding, and the model FLOPs of a step, and the peak FLOP/s of all devices.

        The peak is None if it is unknown.
        """
        mesh, opened = jax.sharding.get_mesh(), self.phase_of(step)
        peak = peak_flops(mesh.devices.flat[0].device_kind)
        tokens = round(tokens_per_batch(opened.phase.config) * (1 - opened.stream.padding))
        return tokens, float(opened.flops), peak and peak * mesh.size

    def _show(self, step: int, values: Values) -> None:
        """Shows a log point: on a terminal the loss and the speed, elsewhere all values."""
        steps = self.config.train.steps
        essential = {name: value for name, value in values.items() if name in ESSENTIAL}
        parts = [f"step {step:,}/{steps:,} {step / steps:.0%}", describe(values), self.progress.eta]
        self.progress.show(describe(essential), "  ".join(filter(None, parts)))


def is_due(step: int, every: int, last: int) -> bool:
    """Whether an event that happens at every multiple of `every` and at the `last` step happens at `step`."""
    return step % every == 0 or step == last


def count_due(step: int, every: int, last: int) -> int:
    """Returns how often an event that `is_due` at `step` happens after it."""
    return -(-last // every) - -(-step // every)
