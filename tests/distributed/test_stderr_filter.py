"""XLA's messages as jaxlib 0.10 writes them, and the lines that replace them."""

import subprocess
import sys

import pytest

from symbert_jax.distributed import stderr_filter

POLLED = (
    "E1127 00:22:47.208333   21830 coordination_service_agent.cc:289] Polled an error from coordination service (this"
    " can be an error from this or another task).\n"
)
FATAL = (
    "F1127 00:22:47.208396   21830 client.h:80] Terminating process because the JAX distributed service detected fatal"
    " errors. This most likely indicates that another task died; absl::Status: UNAVAILABLE: {}\n"
)
LEADER = (
    "Failed to send RPC to coordination service. Either the leader task was preempted/died/restarted.\n"
    "Additional GRPC error information from remote target coordination_service:\n"
    ':UNKNOWN:Error received from peer  {grpc_message:"Socket closed", grpc_status:14}'
)
SILENT = (
    "The following tasks are unhealthy (stopped sending heartbeats):\n{}\nThe tasks have crashed. Check the task logs."
)
OTHER = "E1127 00:22:47.2   21830 cuda_executor.cc:12] out of memory\nmore of it\n"
AGAIN = "; start the same command again\n"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (POLLED + FATAL.format(LEADER), f"error: process 0 is gone{AGAIN}"),
        (POLLED + FATAL.format(SILENT.format(3)), f"error: process 3 is gone{AGAIN}"),
        (POLLED + FATAL.format(SILENT.format("3\n12")), f"error: processes 3, 12 are gone{AGAIN}"),
        (FATAL.format("what nobody knows"), f"error: another process is gone{AGAIN}"),
        (POLLED + f"error: process 2 is gone{AGAIN}" + FATAL.format(LEADER), f"error: process 2 is gone{AGAIN}"),
        ("W1127 01:29:40.9    9441 preemption_notifier.cc:90] SIGTERM caught\nSIGTERM: ours\n", "SIGTERM: ours\n"),
        (POLLED + "3\nany line\n", "any line\n"),
        (POLLED + OTHER + "warning: ours\nhalf a line", OTHER + "warning: ours\nhalf a line"),
    ],
)
def test_filter_replaces_pages_of_xla_by_one_line(written: str, expected: str) -> None:
    command = [sys.executable, "-I", "-S", stderr_filter.__file__]
    result = subprocess.run(command, input=written, capture_output=True, text=True, timeout=60)
    assert (result.stderr, result.stdout, result.returncode) == (expected, "", 0)
