"""The metrics of a run: metrics.jsonl, its copies in TensorBoard and Weights & Biases, and the clock of its speed."""

import contextlib
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from symbert_jax.distributed import is_main_process
from symbert_jax.errors import UserError
from symbert_jax.storage import append_json, bucket_errors_as_user_errors, is_bucket, write_whole

Values = dict[str, float]

TOKENS = "train/tokens"  # the tokens that a run has read so far, without padding
FORMATS = {  # the parts of a log line in their order; other metrics follow
    "train/loss": "loss {:.4f}",
    "train/accuracy": "accuracy {:.3f}",
    "train/learning_rate": "lr {:.2e}",
    "train/grad_norm": "grad {:.2f}",
    "train/empty_steps": "{:.0f} steps without a token to predict",
    "speed/tokens_per_second": "{:,.0f} tokens/s",
    "speed/mfu": "mfu {:.1%}",
    "speed/data_wait_fraction": "data wait {:.1%}",
}


class Metrics:
    """Writes the metrics of a run, on the main process."""

    def __init__(self, workdir: epath.Path, step: int, wandb: str):
        """Continues from `step`: drops later lines, which an interrupted run wrote.

        wandb: the name of a project of Weights & Biases; empty: no copy is sent there.
        """
        self.file, self.is_writer = workdir / "metrics.jsonl", is_main_process()
        self.lines = [line for line in read(workdir, warn=self.is_writer) if line["step"] <= step]
        self.copies: dict[str, _TensorBoard | _WeightsAndBiases] = {}
        if not self.is_writer:
            return
        write_whole(self.file, "".join(f"{json.dumps(line)}\n" for line in self.lines))
        with self._dropped_on_error("TensorBoard"):
            self.copies["TensorBoard"] = _TensorBoard(workdir, step)
        if wandb:
            with self._dropped_on_error("Weights & Biases"):
                self.copies["Weights & Biases"] = _WeightsAndBiases(workdir, wandb)

    def values(self, name: str) -> dict[int, float]:
        """Returns the values of one metric by step, from the lines that earlier starts of the run wrote."""
        return {line["step"]: line[name] for line in self.lines if name in line}

    def write(self, step: int, values: Values) -> None:
        """Appends one object to metrics.jsonl, with 7 significant digits, and the exact values to its copies."""
        if not self.is_writer:
            return
        with bucket_errors_as_user_errors("workdir", self.file, "a bucket that can be written"):
            append_json(self.file, {"step": step} | {name: float(f"{value:.7g}") for name, value in values.items()})
        for name, copy in list(self.copies.items()):
            with self._dropped_on_error(name):
                copy.write(step, values)

    def close(self) -> None:
        for name, copy in list(self.copies.items()):
            with self._dropped_on_error(name):
                copy.close()

    @contextlib.contextmanager
    def _dropped_on_error(self, name: str) -> Iterator[None]:
        """Drops a copy that fails inside of the context, with one warning; metrics.jsonl has all metrics anyway."""
        try:
            yield
        except Exception as error:
            self.copies.pop(name, None)
            found = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"warning: {name}: {found}; the run continues without it", file=sys.stderr)


class Lap(NamedTuple):
    """Training between two log points."""

    steps: int
    seconds: float
    waited: float  # the part of `seconds` in which the devices had to wait for data

    def speed(self, tokens: int, flops: float, peak: float | None) -> Values:
        """Returns the speed metrics; none without a step.

        tokens, flops: in one step. peak: the peak FLOP/s of all devices; None: unknown, there is no MFU.
        """
        if not self.steps:
            return {}
        steps_per_second = self.steps / self.seconds
        values = {
            "speed/tokens_per_second": tokens * steps_per_second,
            "speed/data_wait_fraction": self.waited / self.seconds,
        }
        if peak:
            values["speed/mfu"] = flops * steps_per_second / peak
        return values


class Clock:
    """Measures the time of training steps.

    Time under `pause` (validation, checkpoints) does not count. Time under `wait` (for data) counts; where the devices
    were idle, it is also measured by itself.
    """

    def __init__(self, step: int):
        self.start(step)

    def start(self, step: int) -> None:
        """Starts at the end of `step`."""
        self.start_step, self.start_time, self.paused, self.waited = step, time.perf_counter(), 0.0, 0.0

    def lap(self, step: int) -> Lap:
        """Returns the steps up to `step` since the last lap, and starts the next one."""
        seconds = max(time.perf_counter() - self.start_time - self.paused, 1e-9)
        lap = Lap(step - self.start_step, seconds, self.waited)
        self.start(step)
        return lap

    @contextlib.contextmanager
    def pause(self, sums: object = ()) -> Iterator[None]:
        """Waits until the devices have computed `sums`, then leaves out the time inside of the context.

        sums: the sums of the last step.
        """
        jax.block_until_ready(sums)
        start = time.perf_counter()
        yield
        self.paused += time.perf_counter() - start

    @contextlib.contextmanager
    def wait(self, sums: object = ()) -> Iterator[None]:
        """Counts the time inside of the context as waiting for data, unless the devices are still busy after it.

        sums: the sums of the last step; the devices are busy until these are computed.
        """
        start = time.perf_counter()
        yield
        if all(leaf.is_ready() for leaf in jax.tree.leaves(sums)):
            self.waited += time.perf_counter() - start


def describe(values: Values) -> str:
    """Returns the values with short names, as the text of a log line."""
    known = [text.format(values[name]) for name, text in FORMATS.items() if name in values]
    others = [f"{name.removeprefix('train/')} {value:.4g}" for name, value in values.items() if name not in FORMATS]
    return "  ".join(known + others)


class _TensorBoard:
    """Writes to a file in WORKDIR/tensorboard, without a background thread, which could fail unnoticed."""

    def __init__(self, workdir: epath.Path, step: int):
        folder = workdir / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        self.writer = EventsWriter(str(folder / "events"))
        drop_later_steps = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        self.writer.write_event(drop_later_steps)
        self.writer.flush()

    def write(self, step: int, values: Values) -> None:
        now = time.time()
        for name, value in values.items():
            self.writer.write_event(Event(summary=scalar(name, value), step=step, wall_time=now))
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class _WeightsAndBiases:
    """Writes to a run of Weights & Biases, which a restart in the same workdir resumes."""

    def __init__(self, workdir: epath.Path, project: str):
        import wandb  # doctor has checked that it is installed

        identity = hashlib.sha256(str(workdir).encode()).hexdigest()[:16]
        self.run = wandb.init(
            project=project,
            id=identity,
            name=workdir.name,
            dir=str(workdir),
            resume="allow",
            reinit="create_new",  # by default, a second run of this process would be the first one again
        )

    def write(self, step: int, values: Values) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        self.run.finish()


def read(workdir: epath.Path, warn: bool = True) -> list[dict[str, Any]]:
    """Returns the objects of metrics.jsonl: a `step` and finite numbers by name. Ignores a truncated last line.

    warn: whether to warn on stderr about other lines that are not such objects. They are left out in any case.

    Raises:
      UserError: the file cannot be read.
    """
    file = workdir / "metrics.jsonl"
    if not file.exists():
        return []
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        if is_bucket(file):
            raise
        raise UserError("workdir", f"{file}: {error.strerror or error}", "a readable file") from None
    objects = [_parse(line) for line in lines]
    if (broken := [number for number, line in enumerate(objects, start=1) if line is None]) and warn:
        others = f" and {len(broken) - 1} others" if len(broken) > 1 else ""
        left_out = f"line {broken[0]}{others} left out, not an object with a step and numbers"
        print(f"warning: {file}: {left_out}", file=sys.stderr)
    return [line for line in objects if line is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
        has_step = isinstance(values, dict) and type(values.get("step")) is int and values["step"] >= 0
        is_valid = has_step and all(type(value) in (int, float) and math.isfinite(value) for value in values.values())
        return values if is_valid else None
    except (ValueError, RecursionError, OverflowError):  # OverflowError: an integer too large for a float
        return None
