"""Where a fine-tuning run stands: a bar over all tasks and seeds on a terminal, a plain line a trial elsewhere."""

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from symbert_jax.distributed import first
from symbert_jax.eval.trials import Result

QUIET = 60.0  # seconds between two signs of life where there is no terminal


class Progress:
    """Counts trials, and their work in tokens of training."""

    def __init__(self, trials: int, work: int):
        self.trials, self.work, self.done, self.worked = trials, work, 0, 0
        self.began = self.said = time.perf_counter()
        self.bar = tqdm(
            total=work,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
            disable=not (first() and sys.stderr.isatty()),
            dynamic_ncols=True,
        )

    def skip(self, trials: int, work: int) -> None:
        """Leaves out what an earlier run has finished."""
        self.trials, self.work = self.trials - trials, self.work - work
        self.bar.total = self.work

    def advance(self, tokens: int) -> None:
        self.worked += tokens
        self.bar.update(tokens)
        if self.bar.disable and time.perf_counter() - self.said > QUIET:
            self._say(f"{self.worked / self.work:.0%}")

    def report(self, results: Sequence[Result]) -> None:
        """A line a finished trial."""
        self.done += len(results)
        self.bar.set_description_str(f"{self.done}/{self.trials} trials")
        for result in results:
            trial = result.trial
            metrics = "  ".join(
                f"{split.removeprefix('validation').strip('_')} {name} {100 * value:.1f}".strip()
                for split, found in result.scores.items()
                for name, value in found.items()
            )
            line = f"{trial.task}  lr {trial.learning_rate:g}  batch {trial.batch_size}  seed {trial.seed}  {metrics}"
            line += "  collapsed" * result.collapsed + f"  {result.seconds:.0f} s"
            self._say(line)

    def close(self) -> None:
        self.bar.close()

    def _say(self, line: str) -> None:
        self.said = time.perf_counter()
        if not first():
            return
        left = (self.said - self.began) * max(0.0, self.work / max(self.worked, 1) - 1)
        tqdm.write(f"{line}  ({self.done}/{self.trials} trials, eta {left / 60:.0f} min)", file=sys.stdout)
        sys.stdout.flush()
