"""Small corpora for the tests of `prepare`: texts of a few letters, configs, and the expected token streams."""

import hashlib
import json
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from symbert_jax.config import Config, DataConfig, ModelConfig
from symbert_jax.data import tokenizer
from symbert_jax.data.vocabulary import SPECIAL

VOCABULARY = [*SPECIAL, "a", "b", "c", "##a", "##b", "[", "]", "sep"]
CLS, SEP = 2, 3
LENGTH = 8


def make_config(folder: Path, *files: list[str], fraction: float = 0.0, packing: str = "concat") -> Config:
    """Writes each of `files`, a list of documents, as JSON lines; returns the config of the corpus `folder`/corpus."""
    for number, texts in enumerate(files):
        lines = (json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{number}.jsonl").write_text("".join(lines))
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    data = DataConfig(
        dir=str(folder / "corpus"),
        sources=tuple(f"jsonl:{folder}/{number}.jsonl" for number in range(len(files))),
        vocab=str(folder / "vocab.txt"),
        validation_fraction=fraction,
        packing=packing,
    )
    return Config(model=ModelConfig(length=LENGTH, vocab_size=len(VOCABULARY)), data=data)


def distinct_texts(count: int) -> list[str]:
    """Returns different documents of 10 tokens each."""
    return [" ".join(f"{i:010b}".replace("0", "a").replace("1", "b")) for i in range(count)]


def read_stream(folder: Path, split: str) -> list[int]:
    """Returns the tokens of a split of `folder`/corpus, read with TFDS alone, without the frame of each row."""
    return [token for row in read_rows(folder, split) for token in row[1:-1]]


def read_rows(folder: Path, split: str) -> list[list[int]]:
    """Returns the rows of a split of `folder`/corpus, read with TFDS alone."""
    source = tfds.builder_from_directory(folder / "corpus").as_data_source(split)
    rows = [source[i]["tokens"] for i in range(len(source))]
    assert all(row.dtype == np.uint16 and row.shape == (LENGTH,) for row in rows)
    assert all((row[0], row[-1]) == (CLS, SEP) for row in rows)
    return [row.tolist() for row in rows]


def expected_stream(folder: Path, texts: list[str]) -> list[int]:
    """Returns the token stream of the distinct `texts`; rows hold all of it but a few tokens at the end."""
    encoder = tokenizer.load(folder / "vocab.txt", parse_special=False)
    in_order = sorted(set(texts), key=lambda text: hashlib.blake2b(text.encode(), digest_size=16).digest())
    ids = (encoder.encode(text, add_special_tokens=False).ids for text in in_order)
    return [token for document in ids if document for token in [*document, SEP]]
