"""Signals: the first asks for a checkpoint, a second is answered, a third ends the process."""

import os
import signal
import time

import pytest

from symbert_jax.distributed import Stop, signals


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The calls that would have ended this process: exit code, line, what other processes print."""
    calls: list[tuple] = []
    monkeypatch.setattr(signals, "notify_and_exit", lambda *call: calls.append(call))
    return calls


def send(stop: Stop, number: signal.Signals) -> None:
    before = stop.count
    os.kill(os.getpid(), number)
    until = time.monotonic() + 10
    while stop.count == before and time.monotonic() < until:
        time.sleep(0.001)


def test_a_third_signal_ends_the_run_at_once(ended: list[tuple], capsys) -> None:
    handlers = [signal.getsignal(number) for number in signals.STOP_SIGNALS]
    with Stop() as asked:
        assert asked.should_stop(1) == ""
        send(asked, signal.SIGHUP)
        assert (asked.should_stop(2), capsys.readouterr().err) == ("SIGHUP", "")
        send(asked, signal.SIGTERM)
        assert capsys.readouterr().err == "SIGTERM: the run is saving already; a third signal ends it at once\n"
        assert not ended
        send(asked, signal.SIGINT)
        ((code, line, why),) = ended
        assert (code, why) == (130, "was ended by SIGINT") and "\n" not in line
        assert asked.should_stop(3) == "SIGHUP" and asked.count == 3, "each signal counts once"
    assert [signal.getsignal(number) for number in signals.STOP_SIGNALS] == handlers


def test_a_signal_before_the_first_step_ends_the_run(ended: list[tuple]) -> None:
    with Stop() as asked:
        send(asked, signal.SIGINT)
        assert ended == [(130, "error: ended by SIGINT before the first step; nothing is lost", "was ended by SIGINT")]


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As `nohup` leaves SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            asked.should_stop(1)
            send(asked, signal.SIGTERM)
            assert (asked.count, asked.received) == (1, "SIGTERM")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
