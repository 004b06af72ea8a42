"""Passes on the stderr of one of several processes, with one line for the page in which XLA says that another is gone.

A program of its own, because XLA ends the process that wrote the page.
"""

import os
import re
import sys

ENTRY = re.compile(rb"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ (\S+?):\d+\] ")  # the head of a message of XLA
COORDINATION = re.compile(rb"coordination_|preemption_|distributed|client\.(h|cc)$")  # files about peers
CONTINUED = re.compile(rb"Additional GRPC|:UNKNOWN:|[\d, ]+$|The (following )?tasks ")  # further lines of a message
OURS = re.compile(rb"(error|warning|SIG[A-Z]+): |Traceback ")
TOLD = b"; start the same command again"


def main() -> None:
    messages, kind, told = b"", b"", False  # kind: of the message about peers that the line may belong to
    for line in sys.stdin.buffer:
        if entry := ENTRY.match(line):
            kind = entry[1] if COORDINATION.search(entry[2]) else b""
        elif OURS.match(line) or (kind != b"F" and not CONTINUED.match(line)):  # a fatal message is the last
            kind = b""
        if kind:
            messages += line
        else:
            told |= TOLD in line
            write(line)
    if b"Terminating process because" in messages and not told:
        write(b"error: %s%s\n" % (gone(messages), TOLD))


def gone(messages: bytes) -> bytes:
    """Which process is gone, as far as XLA says."""
    if found := re.search(rb"stopped sending heartbeats\):\s*([\d\s,]+)|/task:(\d+)", messages):
        numbers = (found[1] or found[2]).replace(b",", b" ").split()
        return (
            b"processes %s are gone" % b", ".join(numbers) if len(numbers) > 1 else b"process %s is gone" % numbers[0]
        )
    return b"process 0 is gone" if b"Failed to send RPC" in messages else b"another process is gone"


def write(line: bytes) -> None:
    """A stderr that has gone away must not end the process whose it was."""
    try:
        while line:
            line = line[os.write(2, line) :]
    except OSError:
        pass


if __name__ == "__main__":
    main()
