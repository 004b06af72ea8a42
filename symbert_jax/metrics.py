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
from tensorboardX import SummaryWriter
from tqdm import tqdm

from symbert_jax.distributed import first
from symbert_jax.storage import append_json, write_whole

Values = dict[str, float]


class Metrics:
    """Writes the metrics of a run, in its first process, and keeps its clocks, in every one.

    Speed counts training alone: what happens under `pause` (compilation, validation, checkpoints) is left
    out, what happens under `wait` (for data) is in and reported as a fraction.
    """

    def __init__(self, workdir: epath.Path, step: int, steps: int, wandb: str):
        """Goes on at `step`: lines that an earlier run wrote past it are dropped."""
        self.file, self.writes = workdir / "metrics.jsonl", first()
        if self.writes:
            write_whole(self.file, "".join(f"{json.dumps(line)}\n" for line in read(workdir) if line["step"] <= step))
        self.tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1, write_to_disk=self.writes)
        self.wandb = _wandb(wandb, workdir) if wandb and self.writes else None
        show = self.writes and sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=step, unit="step", disable=not show, dynamic_ncols=True)
        self.steps, self.eta = steps, math.nan
        self.begin(step)

    def write(self, step: int, values: Values) -> None:
        """Appends one object to metrics.jsonl, and the values to TensorBoard (and Weights & Biases)."""
        if not self.writes:
            return
        append_json(self.file, {"step": step} | {name: float(f"{value:.7g}") for name, value in values.items()})
        for name, value in values.items():
            self.tensorboard.add_scalar(name, value, step)
        self.tensorboard.flush()
        if self.wandb:
            self.wandb.log(values, step=step)

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
        line = f"loss {values['train/loss']:.4f}  accuracy {values['train/accuracy']:.3f}"
        line += f"  lr {values['train/learning_rate']:.2e}  grad {values['train/grad_norm']:.2f}"
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
        self.tensorboard.close()
        if self.wandb:
            self.wandb.finish()

    def begin(self, step: int) -> None:
        """Starts the clocks: what came before step `step` ended does not count as speed."""
        self.first, self.began, self.paused, self.waited = step, time.perf_counter(), 0.0, 0.0


def read(workdir: epath.Path) -> list[dict[str, Any]]:
    """The objects of metrics.jsonl; a line that a kill cut short is none."""
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _hours(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


def _wandb(project: str, workdir: epath.Path) -> Any:
    """A Weights & Biases run that a restart in the same workdir continues."""
    import wandb  # which doctor has looked for

    identity = hashlib.sha256(str(workdir).encode()).hexdigest()[:16]
    return wandb.init(project=project, id=identity, name=workdir.name, dir=str(workdir), resume="allow")
