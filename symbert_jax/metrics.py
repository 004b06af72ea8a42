"""What a run says about itself: metrics.jsonl, TensorBoard, one progress line, and honest speed."""

import contextlib
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar
from tqdm import tqdm

from symbert_jax.distributed import is_main_process
from symbert_jax.errors import UserError
from symbert_jax.storage import append_json, bucket_errors_as_user_errors, is_bucket, write_whole

Values = dict[str, float]


class Metrics:
    """Writes the metrics of a run, in its first process, and keeps its clocks, in every one.

    Speed counts training alone: what happens under `pause` (compilation, validation, checkpoints) is left
    out, what happens under `wait` (for data) is in and reported as a fraction.
    """

    def __init__(self, workdir: epath.Path, step: int, steps: int, wandb: str):
        """Goes on at `step`: lines that an earlier run wrote past it are dropped."""
        self.file, self.writes = workdir / "metrics.jsonl", is_main_process()
        self.lines = [line for line in read(workdir, warn=self.writes) if line["step"] <= step]
        if self.writes:
            write_whole(self.file, "".join(f"{json.dumps(line)}\n" for line in self.lines))
        self.copies: dict[str, _TensorBoard | _WeightsAndBiases] = {}
        if self.writes:
            with self._optional("TensorBoard"):
                self.copies["TensorBoard"] = _TensorBoard(workdir, step)
        if self.writes and wandb:
            with self._optional("Weights & Biases"):
                self.copies["Weights & Biases"] = _WeightsAndBiases(workdir, wandb)
        show = self.writes and sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=step, unit="step", disable=not show, dynamic_ncols=True)
        self.steps, self.eta = steps, math.nan
        self.begin(step)

    def values(self, name: str) -> dict[int, float]:
        """The values of one metric by step, as an earlier run wrote them."""
        return {line["step"]: line[name] for line in self.lines if name in line}

    def write(self, step: int, values: Values) -> None:
        """Appends one object to metrics.jsonl, and the values to TensorBoard (and Weights & Biases)."""
        if not self.writes:
            return
        with bucket_errors_as_user_errors("workdir", self.file, "a bucket that can be written"):
            append_json(self.file, {"step": step} | {name: float(f"{value:.7g}") for name, value in values.items()})
        for name, copy in list(self.copies.items()):
            with self._optional(name):
                copy.write(step, values)

    def speed(self, step: int, tokens: int, flops: float, peak: float | None) -> Values:
        """Closes the window of steps since the last call.

        tokens, flops: of one step; peak: FLOP/s of all devices together, None where it is not known.
        Empty where no step has ended since the clocks began.
        """
        if step == self.first:
            return {}
        seconds = max(time.perf_counter() - self.began - self.paused, 1e-9)
        rate = (step - self.first) / seconds
        values = {
            "speed/tokens_per_second": tokens * rate,
            "speed/data_wait_fraction": self.waited / seconds,
        }
        if peak:
            values["speed/mfu"] = flops * rate / peak
        self.eta = (self.steps - step) / max(rate, 1e-9)
        self.begin(step)
        return values

    def report(self, step: int, values: Values) -> None:
        """The progress line: a bar on a terminal, a plain line elsewhere."""
        if not self.writes:
            return
        line = "no token to predict"
        if "train/loss" in values:
            line = f"loss {values['train/loss']:.4f}  accuracy {values['train/accuracy']:.3f}"
            line += f"  lr {values['train/learning_rate']:.2e}  grad {values['train/grad_norm']:.2f}"
        if "train/empty_steps" in values:
            line += f"  {values['train/empty_steps']:.0f} steps without a token to predict"
        if "speed/tokens_per_second" in values:
            line += f"  {values['speed/tokens_per_second']:,.0f} tokens/s"
            line += f"  mfu {values['speed/mfu']:.1%}" if "speed/mfu" in values else "  mfu -"
            line += f"  data wait {values['speed/data_wait_fraction']:.1%}  eta {_hours(self.eta)}"
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix_str(line)
        if self.bar.disable:
            print(f"step {step:,}/{self.steps:,} {step / self.steps:.0%}  {line}", flush=True)

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        if self.writes:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    @contextlib.contextmanager
    def pause(self, sums: object = ()) -> Iterator[None]:
        """Leaves what happens inside out of the speed, from when the device arrays `sums` are there."""
        jax.block_until_ready(sums)
        start = time.perf_counter()
        yield
        self.paused += time.perf_counter() - start

    @contextlib.contextmanager
    def wait(self, sums: object = ()) -> Iterator[None]:
        """Counts what happens inside as waiting for data, unless the devices, whose last step gives `sums`,
        were busy all the while."""
        start = time.perf_counter()
        yield
        if all(leaf.is_ready() for leaf in jax.tree.leaves(sums)):
            self.waited += time.perf_counter() - start

    def close(self) -> None:
        self.bar.close()
        for name, copy in list(self.copies.items()):
            with self._optional(name):
                copy.close()

    def begin(self, step: int) -> None:
        """Starts the clocks: what came before step `step` ended does not count as speed."""
        self.first, self.began, self.paused, self.waited = step, time.perf_counter(), 0.0, 0.0

    @contextlib.contextmanager
    def _optional(self, name: str) -> Iterator[None]:
        """What fails inside is said once and not tried again: metrics.jsonl is the record."""
        try:
            yield
        except Exception as error:
            self.copies.pop(name, None)
            found = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"warning: {name}: {found}; the run goes on without it", file=sys.stderr)


class _TensorBoard:
    """Writes the metrics to a file in WORKDIR/tensorboard, at once: no thread of its own that could fail unseen."""

    def __init__(self, workdir: epath.Path, step: int):
        folder = workdir / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        self.writer = EventsWriter(str(folder / "events"))
        purge = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))  # of what came later
        self.writer.write_event(purge)
        self.writer.flush()

    def write(self, step: int, values: Values) -> None:
        now = time.time()
        for name, value in values.items():
            self.writer.write_event(Event(summary=scalar(name, value), step=step, wall_time=now))
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class _WeightsAndBiases:
    """Sends the metrics to a run of Weights & Biases, which a restart in the same workdir continues."""

    def __init__(self, workdir: epath.Path, project: str):
        import wandb  # which doctor has looked for

        identity = hashlib.sha256(str(workdir).encode()).hexdigest()[:16]
        self.run = wandb.init(project=project, id=identity, name=workdir.name, dir=str(workdir), resume="allow")

    def write(self, step: int, values: Values) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        self.run.finish()


def read(workdir: epath.Path, warn: bool = True) -> list[dict[str, Any]]:
    """The objects of metrics.jsonl: a `step` and finite numbers by name. A line that a kill cut short is none.

    warn: prints a line on stderr where other lines are not such objects; they are left out.

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
    found = [_parse(line) for line in lines]
    if (broken := [number for number, line in enumerate(found, start=1) if line is None]) and warn:
        others = f" and {len(broken) - 1} others" if len(broken) > 1 else ""
        print(f"warning: {file}: line {broken[0]}{others} left out, no object with a step and numbers", file=sys.stderr)
    return [line for line in found if line is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
        whole = isinstance(found, dict) and type(found.get("step")) is int and found["step"] >= 0
        finite = whole and all(type(value) in (int, float) and math.isfinite(value) for value in found.values())
        return found if finite else None
    except (ValueError, RecursionError, OverflowError):  # OverflowError: an integer beyond every float
        return None


def _hours(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
