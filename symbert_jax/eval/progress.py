"""Where a fine-tuning run stands: a bar on a terminal, a plain line for each group of trials elsewhere."""

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from symbert_jax.eval.trials import Result


class Progress:
    """Counts the examples that the trials of one task have seen."""

    def __init__(self, task: str, trials: int, examples: int):
        """`trials` are to see `examples` each."""
        self.task, self.trials, self.done = task, trials, 0
        self.bar = tqdm(
            total=trials * examples,
            desc=task,
            unit="example",
            unit_scale=True,
            disable=not (trials and sys.stderr.isatty()),
            dynamic_ncols=True,
        )
        self.began = time.perf_counter()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, examples: int) -> None:
        self.bar.update(examples)

    def report(self, results: Sequence[Result]) -> None:
        """A line a finished trial."""
        self.done += len(results)
        left = (time.perf_counter() - self.began) / self.done * (self.trials - self.done)
        for result in results:
            trial = result.trial
            metrics = "  ".join(
                f"{split.removeprefix('validation').strip('_')} {name} {100 * value:.1f}".strip()
                for split, found in result.scores.items()
                for name, value in found.items()
            )
            line = f"{self.task}  lr {trial.learning_rate:g}  batch {trial.batch_size}  seed {trial.seed}  {metrics}"
            line += "  collapsed" * result.collapsed + f"  {result.seconds:.0f} s"
            tqdm.write(line + f"  {self.done}/{self.trials}, {left / 60:.0f} min left of {self.task}", file=sys.stdout)
        sys.stdout.flush()
