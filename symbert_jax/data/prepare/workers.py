"""The processes that share the work of `prepare`."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from symbert_jax.errors import UserError

T = TypeVar("T")


class Workers(contextlib.AbstractContextManager["Workers"]):
    """Calls functions in a number of processes, or in this one if the number is 1.

    When the context ends by an error, or this process ends, even by `kill -9`, the processes end at once.
    """

    def __init__(self, number: int):
        self.number = number
        self._pool: ProcessPoolExecutor | None = None
        if number > 1:
            # "spawn", because this process has threads, of which a fork would copy the locks that they hold.
            context = multiprocessing.get_context("spawn")
            stop, self._stop = context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(number, mp_context=context, initializer=_start_worker, initargs=(stop,))

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._pool:
            if error:
                self._stop.close()
            self._pool.shutdown(cancel_futures=True)
            self._stop.close()

    def map(self, function: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """Returns an iterator of the results of calls with these arguments, in the order in which the calls end.

        Other processes have begun with the calls when this function returns. The iterator raises `UserError` if a call
        raises it, or a process is killed.
        """
        if not self._pool:
            return (function(*arguments) for arguments in calls)
        with _killed_process_as_user_error():
            return _results(as_completed([self._pool.submit(function, *arguments) for arguments in calls]))


def _results(futures: Iterator[Future[T]]) -> Iterator[T]:
    """Yields the results of futures, which are held by no variable, so that each is dropped with its result."""
    with _killed_process_as_user_error():
        for future in futures:
            yield future.result()


@contextlib.contextmanager
def _killed_process_as_user_error() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        hint = "memory may have run out: lower data.workers; the same command continues"
        raise UserError("data.workers", "a process that was killed", "one that ends by itself", hint) from None


def _start_worker(stop: Connection) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a worker uses one core
    # Terminals and supervisors send these signals to all processes. Only the parent decides whether to end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(stop,), daemon=True).start()


def _exit_with_parent(stop: Connection) -> None:
    """Ends this process as soon as the parent closes its end of the pipe, or ends itself."""
    with contextlib.suppress(EOFError, OSError):
        stop.recv()
    os._exit(1)
