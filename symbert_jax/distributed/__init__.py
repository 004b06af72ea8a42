"""One run as several processes: they join, agree on what they do, and end together.

The same code runs in a single process, which has nobody to ask.

To read in this order: `cluster`, how a process joins the others; `agreement`, how they compare what each of them found;
`shutdown`, how all of them end where one is lost or fails; `stderr_filter`, a program that turns XLA's messages about
lost processes into one line; `signals`, how a signal to one process saves the same step of all.
"""

from symbert_jax.distributed.agreement import (
    broadcast_from_main,
    connect,
    is_main_process,
    require_shared,
    same_on_all_processes,
    wait_for_all,
    workdir_lock,
)
from symbert_jax.distributed.cluster import JoinError, join
from symbert_jax.distributed.shutdown import exit_on_lost_peer, leave
from symbert_jax.distributed.signals import Stop

__all__ = [
    "JoinError",
    "Stop",
    "broadcast_from_main",
    "connect",
    "exit_on_lost_peer",
    "is_main_process",
    "join",
    "leave",
    "require_shared",
    "same_on_all_processes",
    "wait_for_all",
    "workdir_lock",
]
