"""Progress of a fine-tuning run: a bar over all tasks and seeds on a terminal, elsewhere a line for each trial."""

import sys
import time
from collections.abc import Hashable, Sequence

from tqdm import tqdm

from symbert_jax.distributed import is_main_process
from symbert_jax.eval.trials import TrialResult

QUIET = 60.0  # seconds between two lines where there is no terminal


class Progress:
    """Counts trials, and their work in tokens of training.

    The remaining time is estimated from windows of steps; at the end of a window the devices have finished its steps. A
    window in which a program runs for the first time does not count, because it includes the compilation.
    """

    def __init__(self, trials: int, work: int):
        self.trials, self.work, self.done, self.worked = trials, work, 0, 0
        self.said = time.perf_counter()
        self.programs: set[Hashable] = set()
        self.measured, self.seconds = 0, 0.0  # tokens, and the time that they took
        self.begin()
        self.bar = tqdm(
            total=work,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}",
            disable=not (is_main_process() and sys.stderr.isatty()),
            dynamic_ncols=True,
        )

    def skip(self, trials: int, work: int) -> None:
        """Subtracts the trials that an earlier run has finished, and their work."""
        self.trials, self.work = self.trials - trials, self.work - work
        self.bar.total = self.work

    def begin(self) -> None:
        """Starts a window."""
        self.began, self.tokens, self.compiled = time.perf_counter(), 0, False

    def advance(self, tokens: int, program: Hashable) -> None:
        """Counts a step of `tokens` tokens by `program`."""
        self.worked += tokens
        self.tokens += tokens
        self.compiled |= program not in self.programs
        self.programs.add(program)
        self.bar.update(tokens)
        if self.bar.disable and time.perf_counter() - self.said > QUIET:
            self._say(f"{self.worked / self.work:.0%}")

    def end(self) -> None:
        """Ends a window, whose steps the devices have finished, and starts the next one."""
        if not self.compiled:
            self.measured += self.tokens
            self.seconds += time.perf_counter() - self.began
            self.bar.set_postfix_str(self._eta(), refresh=False)
        self.begin()

    def report(self, results: Sequence[TrialResult]) -> None:
        """Prints a line for each finished trial."""
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
        if not is_main_process():
            return
        standing = ", ".join(filter(None, (f"{self.done}/{self.trials} trials", self._eta())))
        tqdm.write(f"{line}  ({standing})", file=sys.stdout)
        sys.stdout.flush()

    def _eta(self) -> str:
        """The remaining time of training; empty before any speed is measured."""
        if not self.measured:
            return ""
        return f"eta {(self.work - self.worked) * self.seconds / self.measured / 60:.0f} min"
