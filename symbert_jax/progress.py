"""The progress of a long command: a bar if stderr is a terminal; lines on stdout unless both are terminals."""

import contextlib
import sys
import time
from collections.abc import Hashable, Iterator

from tqdm import tqdm

COMPILING = "compiling …"


class Progress(contextlib.AbstractContextManager["Progress"]):
    """Counts finished items (steps, trials, documents) and the work in them, and estimates the remaining time.

    The estimate comes from measured work and measured pauses alone, so that compilation and predictions never count.
    """

    def __init__(
        self,
        unit: str,
        items: int | None = None,
        done: int = 0,
        *,
        work: int | None = None,
        worked: int = 0,
        interval: int = 0,
        is_shown: bool = True,
    ):
        """unit: what the items are, in the plural.

        items: the number of all items; None if unknown.
        done: the number of items that an earlier run finished.
        work: the work in all items, in another unit, for example tokens; by default every item is one unit of work.
        worked: the work in the `done` items, in the unit of `work`.
        interval: the fewest seconds between two lines of `show`.
        is_shown: whether this process prints.
        """
        self.unit, self.items, self.done, self.interval, self.is_shown = unit, items, done, interval, is_shown
        self.work, self.worked = (items, done) if work is None else (work, worked)
        self._measured, self._seconds = 0, 0.0  # the measured work, and the time that it took
        self._measured_program: Hashable = None  # that did the measured work
        self._pauses, self._pause_seconds = 0, 0.0  # the remaining pauses, and the time of each
        self._programs: set[Hashable] = set()
        self._printed, self._text = time.perf_counter(), ""
        self._bar = tqdm(
            total=self.work,
            initial=self.worked,
            disable=not (is_shown and sys.stderr.isatty()),
            bar_format="{desc}" if items is None else "{percentage:3.0f}%|{bar}| {desc}",
            dynamic_ncols=True,  # the bar gets the columns that the text leaves; even of 80, it gets some
        )
        self.start_window()
        self._draw("")

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def skip(self, items: int, work: int) -> None:
        """Subtracts items that an earlier run finished, and their work, from the totals."""
        assert self.items is not None and self.work is not None
        self.items, self.work = self.items - items, self.work - work
        self._bar.total = self.work
        self._draw(self._text)

    @contextlib.contextmanager
    def step(self, program: Hashable, work: int = 1, name: str = "") -> Iterator[None]:
        """Counts the work of a step that runs `program` inside of the context. A program compiles at its first step.

        name: what the program is, for the line which says that it compiles.
        """
        text = self._text
        if program not in self._programs:
            if self._prints_lines and (not self._programs or self._is_line_due):
                self.say(f"compiling {name} …" if name else COMPILING)
            self._programs.add(program)
            self._has_compiled = True
            self._draw(COMPILING)
        yield
        if self._text != text:
            self._draw(text)
        self.worked += work
        self._window_work += work
        self._bar.update(work)

    def finish(self, items: int = 1) -> None:
        """Counts finished items."""
        self.done += items
        self._draw(self._text, refresh=False)

    def measure(self, work: int, seconds: float, program: Hashable = None) -> None:
        """Adds `work` that took `seconds` to the measurement from which the remaining time is estimated.

        program: what did the work. The measurement of another program, which may be slower or faster, is dropped.
        """
        if program != self._measured_program:
            self._measured, self._seconds, self._measured_program = 0, 0.0, program
        self._measured += work
        self._seconds += seconds

    @contextlib.contextmanager
    def pause(self, remaining: int) -> Iterator[None]:
        """Measures the time inside of the context, unless a step in it compiles. Call when the devices are idle.

        remaining: the number of pauses to come, which take as long as the last one that was measured.
        """
        self.start_window()
        yield
        self._pauses = remaining
        if not self._has_compiled:
            self._pause_seconds = time.perf_counter() - self._window_start
        self._draw(self._text)

    def start_window(self) -> None:
        """Starts to measure. Call when the devices are idle."""
        self._window_start, self._window_work, self._has_compiled = time.perf_counter(), 0, False

    def end_window(self) -> None:
        """Measures the steps since `start_window`, unless one of them compiled, and shows the progress.

        Call when the devices are idle; this also starts the next window.
        """
        if not self._has_compiled:
            self.measure(self._window_work, time.perf_counter() - self._window_start)
        self.start_window()
        self.show("", f"{self.worked / (self.work or 1):.0%}  ({self.status})")

    @property
    def eta(self) -> str:
        """The remaining time, for example "eta 1h01m"; empty if nothing is measured or the total is unknown."""
        if not self._measured or self.work is None:
            return ""
        remaining = (self.work - self.worked) * self._seconds / self._measured + self._pauses * self._pause_seconds
        minutes, seconds = divmod(round(remaining), 60)
        hours, minutes = divmod(minutes, 60)
        return f"eta {hours}h{minutes:02d}m" if hours else f"eta {minutes}m{seconds:02d}s"

    @property
    def status(self) -> str:
        """The number of finished items and the remaining time, for example "3/36 trials, eta 1h01m"."""
        return ", ".join(filter(None, (self._count, self.eta)))

    def show(self, text: str, line: str) -> None:
        """Shows `text` beside the bar, and prints `line` at most once in `interval` seconds.

        The line is left out if the output is a terminal with a bar.
        """
        self._draw(text)
        if self._prints_lines and self._is_line_due:
            self.say(line)

    def say(self, line: str) -> None:
        """Prints a line; a bar stays below it."""
        self._printed = time.perf_counter()
        if self.is_shown:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    @property
    def _prints_lines(self) -> bool:
        """Whether lines are printed that a terminal with a bar does not need, but a file does: `… | tee train.log`."""
        return self._bar.disable or not sys.stdout.isatty()

    @property
    def _is_line_due(self) -> bool:
        return time.perf_counter() - self._printed >= self.interval

    @property
    def _count(self) -> str:
        return f"{self.done:,}{'' if self.items is None else f'/{self.items:,}'} {self.unit}"

    def _draw(self, text: str, *, refresh: bool = True) -> None:
        self._text = text
        self._bar.set_description_str(", ".join(filter(None, (self._count, text, self.eta))), refresh=refresh)
