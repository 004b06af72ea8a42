"""Runs of several processes: they join, agree on values, and end together. A single process runs the same code.

Reading order: `cluster`, how a process joins the others; `agreement`, how they compare values and wait for each other;
`shutdown`, how all end if one is lost or fails; `stderr_filter`, a program that turns XLA's messages about lost
processes into one line; `signals`, how a signal to one process makes all save the same step.
"""

from symbert_jax.distributed.agreement import (
    broadcast_from_main,
    check_shared,
    connect_devices,
    is_main_process,
    same_on_all_processes,
    user_errors_on_all_processes,
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
    "check_shared",
    "connect_devices",
    "exit_on_lost_peer",
    "is_main_process",
    "join",
    "leave",
    "same_on_all_processes",
    "user_errors_on_all_processes",
    "wait_for_all",
    "workdir_lock",
]
