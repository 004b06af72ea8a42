"""Signals: the first asks for a checkpoint, the second prints a line, the third ends the process."""

import os
import signal
import time

import pytest

from symbert_jax.distributed import Stop, signals


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Records calls of `notify_and_exit`: the exit code, the line on stderr, the reason that other processes print."""
    calls: list[tuple] = []
    monkeypatch.setattr(signals, "notify_and_exit", lambda *call: calls.append(call))
    return calls


def send(stop: Stop, number: signal.Signals) -> None:
    """Sends a signal to this process, and waits until `stop` has counted it."""
    before = stop.count
    os.kill(os.getpid(), number)
    until = time.monotonic() + 10
    while stop.count == before and time.monotonic() < until:
        time.sleep(0.001)


def test_third_signal_ends_the_run_at_once(ended: list[tuple], capsys) -> None:
    handlers = [signal.getsignal(number) for number in signals.STOP_SIGNALS]
    with Stop() as stop:
        assert stop.should_stop(1) == ""
        send(stop, signal.SIGHUP)
        assert (stop.should_stop(2), capsys.readouterr().err) == ("SIGHUP", "")
        send(stop, signal.SIGTERM)
        assert capsys.readouterr().err == "SIGTERM: the run is saving already; a third signal ends it at once\n"
        assert not ended
        send(stop, signal.SIGINT)
        ((code, line, why),) = ended
        assert (code, why) == (130, "was ended by SIGINT") and "\n" not in line
        assert stop.should_stop(3) == "SIGHUP" and stop.count == 3, "each signal counts once"
    assert [signal.getsignal(number) for number in signals.STOP_SIGNALS] == handlers


def test_signal_before_the_first_step_ends_the_run(ended: list[tuple]) -> None:
    with Stop() as stop:
        send(stop, signal.SIGINT)
        assert ended == [(130, "error: ended by SIGINT before the first step; nothing is lost", "was ended by SIGINT")]


def test_ignored_signal_stays_ignored() -> None:
    """`nohup` ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            stop.should_stop(1)
            send(stop, signal.SIGTERM)
            assert (stop.count, stop.received) == (1, "SIGTERM")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
