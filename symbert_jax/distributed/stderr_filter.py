"""Copies stdin, the stderr of one of several processes, to stderr; XLA's page about a lost process becomes one line.

It is a separate program, because XLA ends the process that wrote the page. It imports nothing of this package, so
that it starts fast.
"""

import os
import re
import sys

# How a message of XLA starts: F1127 00:22:47.208396   21830 client.h:80] Terminating process because …
ENTRY = re.compile(rb"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ (\S+?):\d+\] ")
COORDINATION = re.compile(rb"coordination_|preemption_|distributed|client\.(h|cc)$")  # files whose messages are dropped
CONTINUED = re.compile(rb"Additional GRPC|:UNKNOWN:|[\d, ]+$|The (following )?tasks ")  # further lines of a message
OWN = re.compile(rb"(error|warning|SIG[A-Z]+): |Traceback ")  # lines of this project and of Python
HINT = b"; start the same command again"


def main() -> None:
    dropped, reported = b"", False
    severity = b""  # the letter of the dropped message that the next lines may continue; empty for none
    for line in sys.stdin.buffer:
        if entry := ENTRY.match(line):
            severity = entry[1] if COORDINATION.search(entry[2]) else b""
        elif OWN.match(line) or (severity != b"F" and not CONTINUED.match(line)):  # after F, all lines belong to it
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
    """Writes to stderr. Ignores that stderr is closed: if the filter ended, so would the process that writes to it."""
    try:
        while line:
            line = line[os.write(2, line) :]
    except OSError:
        pass


if __name__ == "__main__":
    main()
