"""Rows per second of the training stream on one core: shuffled, read and masked, without training.

    .venv/bin/python -m bench.input_rate

Writes random rows as `prepare` does, then reads whole batches as training does, in each round once with every
`data.mask_unit`. Also records the rows per second that a TPU chip of each kind needs for BERT-base.
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
from symbert_jax.data import rows
from symbert_jax.data.masking import Masking, max_predictions
from symbert_jax.data.prepare.packing import cut_rows
from symbert_jax.data.stream import Stream
from symbert_jax.data.tokenizer import Normalization, WordPiece
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.model.flops import train_flops

# A fifth of the tokens continue a word.
TOKENIZER = WordPiece(
    (*SPECIAL, *(f"w{i}" for i in range(24_000)), *(f"##w{i}" for i in range(6_000))), Normalization()
)
UNITS = ("token", "word", "span")  # the values of data.mask_unit
MASK_RATE = 0.15
MFU = 0.6  # assumed for BERT-base; the highest estimate in docs/performance.md is 58%


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=512, help="tokens per row")
    parser.add_argument("--rows", type=int, default=50_000, help="rows in the corpus")
    parser.add_argument("--batch", type=int, default=256, help="rows per batch")
    parser.add_argument("--batches", type=int, default=40, help="batches per round")
    parser.add_argument("--rounds", type=int, default=5, help="measurements, of which the median counts")
    parser.add_argument("--threads", type=int, default=4, help="as data.reader_threads")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(Path(folder), arguments.rows, arguments.length)
        streams = {unit: make_stream(corpus, arguments.length, arguments.batch, unit) for unit in UNITS}
        rates: dict[str, list[float]] = {unit: [] for unit in UNITS}
        for i in range(arguments.rounds):
            first_batch = i * arguments.batches
            for unit, stream in streams.items():
                start = time.perf_counter()
                for _ in stream.batches(first_batch, first_batch + arguments.batches, arguments.threads):
                    pass
                rates[unit].append(arguments.batches * arguments.batch / (time.perf_counter() - start))
    by_unit = {unit: statistics.median(measured) for unit, measured in rates.items()}
    rows_per_second = by_unit["token"]
    needed = {chip: round(needed_rows_per_second(chip, arguments.length)) for chip in TPUS}
    record(
        "input_rate",
        length=arguments.length,
        rows_per_second_one_core=round(rows_per_second),
        rows_per_second_by_mask_unit={unit: round(rate) for unit, rate in by_unit.items()},
        rows_per_second_a_chip_wants=needed,
        share_of_a_core_a_chip_wants={chip: round(rows / rows_per_second, 4) for chip, rows in needed.items()},
    )


def make_stream(corpus: rows.Rows, length: int, batch_size: int, unit: str) -> Stream:
    """Returns the stream of a process that holds all rows of a batch."""
    masking = Masking(TOKENIZER, length, MASK_RATE, seed=0, unit=unit)
    return Stream(
        train=corpus,
        validation=corpus,  # not read
        masking=masking,
        validation_masking=masking,
        mask_rate=lambda step: MASK_RATE,
        batch_size=batch_size,
        local_row_indices=np.arange(batch_size),
        may_lack_targets=False,
    )


def needed_rows_per_second(chip: str, length: int) -> float:
    """Returns the rows per second that a chip trains on at `MFU` of its peak."""
    model = dataclasses.replace(ModelConfig(), length=length)
    return MFU * TPUS[chip].peak / train_flops(model, batch_size=1, max_predictions=max_predictions(length, MASK_RATE))


def write_corpus(folder: Path, count: int, length: int) -> rows.Split:
    """Writes a corpus of `count` random rows to `folder`; returns its rows."""
    dtype = rows.row_dtype(len(TOKENIZER.tokens))
    tokens = np.random.default_rng(0).integers(len(SPECIAL), len(TOKENIZER.tokens), count * (length - 2)).astype(dtype)
    file, header = folder / rows.file_name("train", 0), rows.record_header(length, dtype)
    rows.write_file(file, [cut_rows(tokens, length, cls=2, sep=3)], header)
    rows.write_info(folder, length, dtype, {"train": [count]})
    return rows.Split(folder, "train")


if __name__ == "__main__":
    main()
