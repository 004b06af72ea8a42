"""The progress of a command, with and without a terminal."""

import contextlib
import os
import re
import termios

import pytest

from symbert_jax import progress
from symbert_jax.progress import Progress


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """A list with the seconds that `perf_counter` returns."""
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: seconds[0])
    return seconds


def test_eta_excludes_compilation(clock, capsys) -> None:
    """Two trials of 1000 tokens together. A step has 50 tokens; the first step of a program compiles."""
    shown = Progress("trials", items=2, work=1000, interval=60)

    def window(seconds: float, *programs: str) -> None:
        for program in programs:
            with shown.step(program, work=50):
                pass
        clock[0] += seconds
        shown.end_window()

    window(59, "short", "short")
    assert capsys.readouterr().out == "compiling …\n"
    shown.finish()
    assert shown.status == "1/2 trials"
    window(5000, "short", "long")
    assert capsys.readouterr().out == "20%  (1/2 trials)\n", "only the first compilation is reported"
    window(60, "long", "short")
    clock[0] += 5000  # predictions
    shown.start_window()
    window(60, "short", "short")
    shown.finish()
    assert shown.status == "2/2 trials, eta 6m00s"  # 600 tokens at 100 a minute
    shown.skip(items=0, work=500)
    assert shown.eta == "eta 1m00s"
    shown.measure(work=0, seconds=3600.0)
    assert shown.eta == "eta 31m00s"


def test_eta_counts_work_by_its_cost_and_pauses(clock) -> None:
    """Two steps of 1 FLOP, two of 10, and a pause of a minute after each two."""
    shown = Progress("steps", items=4, done=1, work=22, worked=1)
    with shown.step("cheap"):
        pass
    shown.measure(work=1, seconds=2.0, program="cheap")
    for seconds, eta in ((1000, "eta 0m40s"), (60, "eta 1m40s")):  # the first pause compiles
        with shown.pause(remaining=1), shown.step("validation", work=0):
            clock[0] += seconds
        assert shown.eta == eta
    with shown.step("costly", work=10):
        pass
    shown.measure(work=10, seconds=50.0, program="costly")
    assert shown.eta == "eta 1m50s", "the speed is that of the latest program"
    with shown.pause(remaining=0):
        clock[0] += 60
    assert shown.eta == "eta 0m50s"


def test_progress_says_what_compiles(clock, capsys) -> None:
    """Every program, but within the interval after a line the first one alone."""
    for interval, others in ((0, "compiling validation …\ncompiling …\n"), (60, "")):
        shown = Progress("steps", items=9, interval=interval)
        for program, name in (("step", "the step"), ("validation", "validation"), ("step", "the step"), ("other", "")):
            with shown.step(program, name=name):
                pass
        assert capsys.readouterr().out == f"compiling the step …\n{others}"


def test_progress_prints_lines_where_there_is_no_terminal(clock, capsys) -> None:
    with Progress("documents", interval=30) as shown:
        for seconds in (29, 1, 29, 31):
            clock[0] += seconds
            shown.finish(1000)
            shown.show("fast", f"{shown.status}, fast")
    output = capsys.readouterr()
    assert output.out == "2,000 documents, fast\n4,000 documents, fast\n" and not output.err
    Progress("documents", is_shown=False).say("of another process")
    assert not capsys.readouterr().out


def test_bar_fits_80_columns(monkeypatch, capsys) -> None:
    """The longest text of pretraining, on a terminal."""
    controller, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (25, 80))
    with os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr(progress.sys, "stderr", stderr)
        with Progress("steps", items=2, done=1) as shown:  # as by `| tee train.log`
            shown.show("loss 10.1234", "a line")
        assert capsys.readouterr().out == "a line\n"
        monkeypatch.setattr(progress.sys, "stdout", stderr)
        with Progress("steps", items=200_000, done=100_000) as shown:
            with shown.step("training"):
                pass
            shown.finish()
            shown.measure(work=1, seconds=3.6)
            shown.show("loss 10.1234  1,234,567 tokens/s", "a line")
            with shown.step("validation", work=0):
                pass
    output = bytearray()
    with (
        os.fdopen(controller, "rb", buffering=0) as reader,
        contextlib.suppress(OSError),
    ):  # EIO: the terminal is closed
        while part := reader.read(10_000):
            output += part
    drawn = output.decode()
    # The bar moves up a line after each drawing if a library's bar of an earlier test is still open in this process.
    *_, last = states = [state for state in re.split("(?:[\r\n]|\x1b\\[A)+", drawn) if state.strip()]
    assert max(map(len, states)) <= 80
    for compiling in ("| 100,000/200,000 steps, compiling …", "| 100,001/200,000 steps, compiling …, eta 99h59m"):
        assert any(state.rstrip().endswith(compiling) for state in states), compiling
    assert re.fullmatch(r" 50%\|.+\| 100,001/200,000 steps, loss 10.1234  1,234,567 tokens/s, eta 99h59m *", last), last
    assert "| 1/2 steps, loss 10.1234" in drawn
    assert "a line" not in drawn, "neither lines of log points nor of compilation"
