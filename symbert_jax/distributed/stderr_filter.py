"""Copies stdin to stderr without XLA's messages about the other processes of a run.

When a process is lost, XLA writes a page of them. One line replaces the page, unless a line of this project has already
reported the loss. Stdin is the stderr of one process. The filter is a separate program, because XLA ends that process
after the page. It imports nothing of this package, so that it starts fast.
"""

import os
import re
import sys

# How a message of XLA starts: F1127 00:22:47.208396   21830 client.h:80] Terminating process because …
ENTRY = re.compile(rb"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ (\S+?):\d+\] ")
COORDINATION = re.compile(rb"coordination_|preemption_|distributed|client\.(h|cc)$")  # source files of dropped messages
CONTINUED = re.compile(rb"Additional GRPC|:UNKNOWN:|[\d, ]+$|The (following )?tasks ")  # further lines of a message
OWN = re.compile(rb"(error|warning|SIG[A-Z]+): |Traceback ")  # lines of this project and of Python, which end a message
HINT = b"; start the same command again"


def main() -> None:
    dropped, reported = b"", False
    severity = b""  # the letter of the message that is being dropped: I, W, E or F; empty if none is
    for line in sys.stdin.buffer:
        if entry := ENTRY.match(line):
            severity = entry[1] if COORDINATION.search(entry[2]) else b""
        elif OWN.match(line) or (severity != b"F" and not CONTINUED.match(line)):  # after F, all lines up to OWN
            severity = b""
        if severity:
            dropped += line
        else:
            reported |= HINT in line
            write(line)
    if b"Terminating process because" in dropped and not reported:
        write(b"error: %s%s\n" % (lost_processes(dropped), HINT))


def lost_processes(messages: bytes) -> bytes:
    """Returns which processes are gone, as far as XLA's messages tell."""
    if found := re.search(rb"stopped sending heartbeats\):\s*([\d\s,]+)|/task:(\d+)", messages):
        numbers = (found[1] or found[2]).replace(b",", b" ").split()
        plural = len(numbers) > 1
        return (b"processes %s are gone" if plural else b"process %s is gone") % b", ".join(numbers)
    return b"process 0 is gone" if b"Failed to send RPC" in messages else b"another process is gone"


def write(line: bytes) -> None:
    """Writes to stderr, if it is still open.

    If it is closed, the filter must go on reading: its end would end the process that writes to it.
    """
    try:
        while line:
            line = line[os.write(2, line) :]
    except OSError:
        pass


if __name__ == "__main__":
    main()
