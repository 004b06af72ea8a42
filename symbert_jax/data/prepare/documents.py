"""The key of a document, from which its place in the corpus follows.

Documents are in the order of their keys. So the order in which they are read does not matter, equal documents meet, and
every split and every bucket is a range of keys.
"""

import hashlib
import math

import numpy as np
from jaxtyping import UInt64

KEY_BYTES = 16


def document_key(text: bytes) -> bytes:
    """Returns the key of a document, a hash of its text in UTF-8. Documents with the same key are duplicates."""
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()


def key_array(keys: bytes) -> UInt64[np.ndarray, "n 2"]:
    """Returns joined keys as pairs of numbers, which are in the same order as the keys."""
    return np.frombuffer(keys, ">u8").reshape(-1, 2).astype(np.uint64)


def bucket_numbers(keys: UInt64[np.ndarray, "n 2"], bits: int, start: int = 0) -> UInt64[np.ndarray, " n"]:
    """Returns the bucket of each key: the number that its `bits` bits after the first `start` ones form."""
    return keys[:, 0] << np.uint64(start) >> np.uint64(64 - bits) if bits else np.zeros(len(keys), np.uint64)


def count_validation(keys: UInt64[np.ndarray, "n 2"], fraction: float) -> int:
    """Returns how many of the sorted `keys` belong to documents for validation, which are the first ones.

    A document is for validation if the first 8 bytes of its key, a number that is uniform in [0, 2**64), are less than
    this fraction of 2**64.
    """
    return int(np.searchsorted(keys[:, 0], np.uint64(math.ceil(fraction * 2**64)), side="left"))
