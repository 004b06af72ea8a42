"""Where a fine-tuning run stands: a bar over all tasks and seeds on a terminal, a plain line a trial elsewhere."""

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from symbert_jax.eval.trials import Result


class Progress:
    """Counts trials and the work that they are, in characters of training text: long texts take long."""

    def __init__(self, trials: int, work: float):
        self.trials, self.work, self.done, self.worked = trials, work, 0, 0.0
        self.began = time.perf_counter()
        self.bar = tqdm(
            total=round(work),
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def skip(self, trials: int, work: float) -> None:
        """Leaves out what an earlier run has finished."""
        self.trials, self.work = self.trials - trials, self.work - work
        self.bar.total = round(self.work)

    def advance(self, work: float) -> None:
        self.worked += work
        self.bar.update(round(self.worked) - self.bar.n)

    def report(self, results: Sequence[Result]) -> None:
        """A line a finished trial."""
        self.done += len(results)
        seconds = (time.perf_counter() - self.began) * max(0.0, self.work / max(self.worked, 1.0) - 1)
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
            tqdm.write(f"{line}  ({self.done}/{self.trials} trials, eta {seconds / 60:.0f} min)", file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self.bar.close()
