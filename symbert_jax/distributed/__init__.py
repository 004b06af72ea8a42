"""One run as several processes: they find each other, agree on what they do, and end together.

The same code runs in a single process, where nobody has to be found or asked.

To read in this order: `agreement`, how processes meet and compare what they found; `shutdown`, how all of them end
where one is lost or fails; `stderr_filter`, a program that turns XLA's messages about lost processes into one line;
`signals`, how a signal to one process saves one step of all.
"""

from symbert_jax.distributed.agreement import (
    Absent,
    agreed,
    connect,
    first,
    from_first,
    join,
    locked,
    require_shared,
    wait_for_all,
)
from symbert_jax.distributed.shutdown import fail_together, leave
from symbert_jax.distributed.signals import Stop

__all__ = [
    "Absent",
    "Stop",
    "agreed",
    "connect",
    "fail_together",
    "first",
    "from_first",
    "join",
    "leave",
    "locked",
    "require_shared",
    "wait_for_all",
]
