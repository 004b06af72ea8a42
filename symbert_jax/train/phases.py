"""The phases of a run with what their steps need."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax

from symbert_jax.batch import MlmBatch
from symbert_jax.config import Config, Phase, phases
from symbert_jax.data.masking import max_train_predictions
from symbert_jax.data.stream import Stream
from symbert_jax.errors import UserError
from symbert_jax.metrics import Values
from symbert_jax.model import bert
from symbert_jax.model.flops import train_flops
from symbert_jax.progress import Progress
from symbert_jax.train import state as states
from symbert_jax.train.diagnose import make_diagnostics
from symbert_jax.train.state import State
from symbert_jax.train.step import Sums, abstract_batch, make_train_step


@dataclasses.dataclass(frozen=True, eq=False)
class OpenPhase:
    """A phase, its batches and its compiled functions."""

    phase: Phase
    stream: Stream
    # The stream whose validation rows are read: that of the last phase with the same corpus. So the phases of a batch
    # warmup validate the rows of the phases that follow them.
    validation: Stream
    train_step: Callable[[State, MlmBatch], tuple[State, Sums]]
    diagnose: Callable[[bert.Params], Values]

    @functools.cached_property
    def flops(self) -> int:
        """The model FLOPs of a step."""
        config = self.phase.config
        return round(train_flops(config.model, config.data.batch_size, max_train_predictions(config)))

    @property
    def step_name(self) -> str:
        """What the step is, for a reader."""
        config = self.phase.config
        return f"the training step for {config.data.batch_size:,} rows of {config.model.length:,} tokens"


def open_phases(config: Config, streams: Sequence[Stream]) -> list[OpenPhase]:
    """Returns the phases of a run with their streams. Call it under the mesh of the run."""
    planned = phases(config)
    last = {phase.config.data.dir: stream for phase, stream in zip(planned, streams, strict=True)}
    diagnostics = {location: make_diagnostics(config, stream) for location, stream in last.items()}
    return [
        OpenPhase(
            phase,
            stream,
            last[phase.config.data.dir],
            make_train_step(_with_whole_model(phase, config), stream.may_lack_targets, stream.pad),
            diagnostics[phase.config.data.dir],
        )
        for phase, stream in zip(planned, streams, strict=True)
    ]


def flops_until(opened: Sequence[OpenPhase], step: int) -> int:
    """Returns the model FLOPs of all steps before `step`. As integers their sums are exact."""
    return sum(max(0, min(step, each.phase.steps.stop) - each.phase.steps.start) * each.flops for each in opened)


def check_memory(
    config: Config, opened: Sequence[OpenPhase], start: int, limit: int | None, progress: Progress
) -> None:
    """Compiles the steps of the phases that begin after `start`, so that one that does not fit fails before the run.

    limit: the bytes of a device; None: unknown. The compiler of a TPU knows it and refuses a larger program.

    Raises:
      UserError: the step of a phase needs more memory than a device has.
    """
    state = states.abstract(config)
    for each in opened:
        if each.phase.steps.start <= start:
            continue
        with progress.step(each.train_step, work=0, name=each.step_name):  # the first call finds the compiled program
            lowered = each.train_step.lower(state, abstract_batch(each.phase.config))  # type: ignore[attr-defined]
            compiled = lowered.compile()
        needed = compiled.memory_analysis().peak_memory_in_bytes
        if limit and needed > limit:
            hint = "lower its data.batch_size, raise its optim.accumulate, or set model.remat=full"
            found = f"{needed / 2**30:.2f} GiB per device"
            raise each.phase.named(UserError("memory", found, f"at most {limit / 2**30:.2f} GiB", hint))


def memory_limit() -> int | None:
    """Returns the bytes that programs may use on a device; None if it does not say."""
    device = jax.local_devices()[0]
    return None if device.platform == "cpu" else (device.memory_stats() or {}).get("bytes_limit")


def _with_whole_model(phase: Phase, config: Config) -> Config:
    """Returns the config of a phase with the model of the run, whose parameters serve the longest rows."""
    return dataclasses.replace(phase.config, model=config.model)
