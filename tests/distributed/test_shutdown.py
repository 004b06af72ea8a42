"""The last error and the exit code of processes that end together, with a dict as the store."""

import contextlib
import threading
import types

import pytest
from jax.errors import JaxRuntimeError

from symbert_jax.distributed import shutdown
from symbert_jax.errors import UserError

SEE_OUTPUT = "error: process 1 ended with an error; see its output"


class Exit(BaseException):
    """Raised in place of an exit, with the exit code."""


class Store(dict):
    """The keys that processes write to each other, see `shutdown`; with the methods of JAX's store."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool) -> None:
        self[key] = value

    def key_value_dir_get(self, prefix: str) -> list[tuple[str, str]]:
        return [(key, value) for key, value in self.items() if key.startswith(prefix)]

    def blocking_key_value_get(self, key: str, timeout: int) -> str:
        return self[key]


@pytest.fixture
def store(monkeypatch) -> Store:
    """The store of a run of two processes, which the test plays in turn.

    `store.become(I)` makes this process number I, newly started: it has no error of its own and is not exiting.
    """

    def exit_(code: int) -> None:
        raise Exit(code)

    monkeypatch.setattr(shutdown, "_watching", True)
    monkeypatch.setattr(shutdown, "PATIENCE", 0.1)
    monkeypatch.setattr(shutdown, "STOP_SIGNALS", ())
    monkeypatch.setattr(shutdown, "before_exit", contextlib.ExitStack())
    monkeypatch.setattr(shutdown.os, "_exit", exit_)
    store = Store()
    store.become = lambda process: (
        monkeypatch.setattr(
            shutdown, "global_state", types.SimpleNamespace(client=store, process_id=process, num_processes=2)
        ),
        monkeypatch.setattr(shutdown, "_exiting", threading.Lock()),
        monkeypatch.setattr(shutdown, "_own_error", None),
    )
    return store


def exit_code(function, *arguments) -> int:
    """Calls a function that must exit; returns the exit code."""
    with pytest.raises(Exit) as exit_:
        function(*arguments)
    return exit_.value.args[0]


@pytest.mark.parametrize(("code", "hint"), [(1, "; start the same command again"), (2, "")])
def test_all_processes_end_with_the_exit_code_of_one(code: int, hint: str, store: Store, capsys) -> None:
    """A launcher starts processes again after exit code 1, and not after 2."""
    store.become(1)
    assert exit_code(shutdown.leave, code) == code
    store.become(0)
    assert exit_code(shutdown._listen) == code
    assert capsys.readouterr().err == f"{SEE_OUTPUT}{hint}\n"


def test_error_of_one_process_is_the_error_of_the_run(store: Store, capsys) -> None:
    """Process 1 unwinds its stack while process 0 fails as a consequence.

    Process 1 then reads the notice of process 0, still with its own error.
    """
    store.become(1)
    with pytest.raises(UserError), shutdown.exit_on_lost_peer():
        raise UserError("disk", "none", "one")
    own_error = shutdown._own_error  # the `UserError`
    store.become(0)
    assert exit_code(shutdown._exit_after_jax_error, JaxRuntimeError("Gloo: connection closed")) == 2
    assert capsys.readouterr().err == f"{SEE_OUTPUT}\n"
    store.become(1)
    shutdown._own_error = own_error  # which `become` has reset
    assert exit_code(shutdown._listen) == 2
    assert capsys.readouterr().err == "error: disk: found none, wanted one\n"


def test_connection_error_without_a_failed_process_is_reported(store: Store, capsys) -> None:
    """Process 1 answers the notice and exits in the ordinary way, so it is neither lost nor failed."""
    store.become(0)
    store[f"{shutdown.ACKNOWLEDGED}1"] = store[f"{shutdown.DONE}1"] = "-"
    with pytest.raises(Exit) as exit_, shutdown.exit_on_lost_peer():
        raise JaxRuntimeError("Gloo: connection closed")
    assert exit_.value.args == (1,)
    assert capsys.readouterr().err == "error: the connection to another process broke; start the same command again\n"
