"""Rows per second of the training stream alone: shuffled, read, masked, on one core.

    .venv/bin/python -m bench.input_rate

Writes random rows as `prepare` would, then reads whole batches by the same path as training. Prints one JSON line, with
what a chip that trains BERT-base would want of it.
"""

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.record import record
from symbert_jax.chips import TPUS
from symbert_jax.config import ModelConfig
from symbert_jax.data.masking import Masking, max_predictions
from symbert_jax.data.rows import Rows, Split, Writer, write_info
from symbert_jax.data.stream import Stream
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.model.flops import train_flops

VOCABULARY = [*SPECIAL, *(f"w{i}" for i in range(30_000))]
RATE = 0.15  # of masked tokens
MFU = 0.6  # of BERT-base; docs/performance.md has 58% by the compiler's estimate, compute alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--rows", type=int, default=50_000, help="rows of the corpus")
    parser.add_argument("--batch", type=int, default=256, help="rows of a batch")
    parser.add_argument("--batches", type=int, default=40, help="batches of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=4, help="as data.reader_threads")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        corpus = write(Path(folder), arguments.rows, arguments.length)
        masking = Masking(VOCABULARY, arguments.length, RATE, 0)
        stream = Stream(corpus, corpus, masking, arguments.batch, np.arange(arguments.batch), False)
        rates = []
        for turn in range(arguments.rounds):
            first = turn * arguments.batches
            began = time.perf_counter()
            for _ in stream.batches(first, first + arguments.batches, arguments.threads):
                pass
            rates.append(arguments.batches * arguments.batch / (time.perf_counter() - began))
    rate = statistics.median(rates)
    wanted = {chip: round(need(chip, arguments.length)) for chip in TPUS}
    record(
        "input_rate",
        length=arguments.length,
        rows_per_second_one_core=round(rate),
        rows_per_second_a_chip_wants=wanted,
        share_of_a_core_a_chip_wants={chip: round(rows / rate, 4) for chip, rows in wanted.items()},
    )


def need(chip: str, length: int) -> float:
    """Rows/s that a chip could train on at `MFU` of its peak: more than it will."""
    model = dataclasses.replace(ModelConfig(), length=length)
    return MFU * TPUS[chip].peak / train_flops(model, 1, max_predictions(length, RATE))


def write(folder: Path, count: int, length: int) -> Rows:
    """A corpus of `count` random rows in `folder`, opened."""
    writer = Writer(folder, "train", length, cls=2, sep=3, unk=1)
    writer.add(np.random.default_rng(0).integers(5, len(VOCABULARY), count * (length - 2)).astype(np.uint16))
    writer.close()
    write_info(folder, length, [writer.info()])
    return Split(folder, "train")


if __name__ == "__main__":
    main()
