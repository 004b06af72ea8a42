"""One run as several processes: they join, agree on what they do, and end together.

The same code runs in a single process, which has nobody to ask.

To read in this order: `cluster`, how a process joins the others; `agreement`, how they compare what each of them found;
`shutdown`, how all of them end where one is lost or fails; `stderr_filter`, a program that turns XLA's messages about
lost processes into one line; `signals`, how a signal to one process saves the same step of all.
"""

from symbert_jax.distributed.agreement import agreed, connect, first, from_first, locked, require_shared, wait_for_all
from symbert_jax.distributed.cluster import JoinError, join
from symbert_jax.distributed.shutdown import exit_on_lost_peer, leave
from symbert_jax.distributed.signals import Stop

__all__ = [
    "JoinError",
    "Stop",
    "agreed",
    "connect",
    "exit_on_lost_peer",
    "first",
    "from_first",
    "join",
    "leave",
    "locked",
    "require_shared",
    "wait_for_all",
]
