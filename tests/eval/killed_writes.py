"""Imported by processes that run `finetune`: a signal kills each in the middle of its second write to trials.jsonl.

The third start, which writes the fourth line then, and all later ones are not killed.
"""

import json
import os
import signal

from symbert_jax.eval import trials

SIGNALS = {1: signal.SIGTERM, 2: signal.SIGKILL}  # by the number of complete lines
append_json, writes = trials.append_json, 0


def append_or_die(file, value) -> None:
    global writes
    writes += 1
    lines = file.read_text().count("\n") if file.exists() else 0
    if writes == 2 and lines in SIGNALS:
        with file.open("a") as opened:
            opened.write(json.dumps(value)[:20])
        os.kill(os.getpid(), SIGNALS[lines])
    append_json(file, value)


trials.append_json = append_or_die
