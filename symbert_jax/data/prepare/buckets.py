"""A bucket: the documents whose keys begin with the same bits, as texts and as token ids."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt, UInt64

from symbert_jax.data.prepare import statistics
from symbert_jax.data.prepare.documents import count_validation
from symbert_jax.data.prepare.encoding import Encoder
from symbert_jax.data.prepare.statistics import Statistics


class Copies(NamedTuple):
    """The documents of a bucket as they were read: in any order, and some of them several times."""

    keys: UInt64[np.ndarray, "n 2"]
    sources: Int[np.ndarray, " n"]  # the number of the source of each document, in alphabetical order
    texts: Sequence[bytes]  # in UTF-8


class Bucket(NamedTuple):
    """The distinct documents of a bucket, in the order of their keys."""

    keys: UInt64[np.ndarray, "n 2"]
    sources: Int[np.ndarray, " n"]  # the alphabetically first source of each
    texts: Sequence[bytes]
    duplicates: Int[np.ndarray, " sources"]  # further copies of the documents, by their source


def sort_and_deduplicate(copies: Copies, num_sources: int) -> Bucket:
    """Returns the distinct documents. The result depends neither on the order of the copies nor on other buckets."""
    keys, sources, texts = copies
    order = np.lexsort((sources, keys[:, 1], keys[:, 0]))
    keys, sources = keys[order], sources[order]
    is_first = np.ones(len(keys), bool)
    is_first[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    duplicates = np.bincount(sources[~is_first], minlength=num_sources)
    return Bucket(keys[is_first], sources[is_first], [texts[i] for i in order[is_first].tolist()], duplicates)


def decode(texts: Sequence[bytes]) -> Iterator[str]:
    return (str(text, "utf-8") for text in texts)


def tokenize(
    bucket: Bucket, encoder: Encoder, validation_fraction: float
) -> tuple[tuple[UInt[np.ndarray, " _"], UInt[np.ndarray, " _"]], Statistics]:
    """Returns the sequences of a bucket for training and for validation, and the counts of its documents.

    A sequence joins the token ids of documents, each with its [SEP]. Documents without a token are left out.
    """
    num_validation = count_validation(bucket.keys, validation_fraction)
    encoded = list(encoder.encode(decode(bucket.texts)))
    lengths = np.array([len(ids) - 1 for ids in encoded], np.int64)
    sequences, lengths_of_splits, sources_of_splits = [], [], []
    for documents in (slice(num_validation, None), slice(0, num_validation)):
        has_token = lengths[documents] > 0
        kept = [ids for ids in encoded[documents] if len(ids) > 1]
        sequences.append(np.concatenate([*kept, np.empty(0, encoder.dtype)]))
        lengths_of_splits.append(lengths[documents][has_token])
        sources_of_splits.append(bucket.sources[documents][has_token])
    vocab_size, sep = len(encoder.tokenizer.tokens), encoder.tokenizer.sep_id
    counts = statistics.count(sequences, lengths_of_splits, sources_of_splits, bucket.duplicates, vocab_size, sep)
    return (sequences[0], sequences[1]), counts
