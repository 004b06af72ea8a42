"""Runs the tokenizer over the documents of a corpus, on all cores."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from symbert_jax.data.documents import Document
from symbert_jax.data.tokenizer import TextTokenizer, Tokenizer

_BATCH = 1 << 20  # characters that complete a batch of documents, which one call of the library encodes on all cores
_PIECE = 1 << 12  # characters after which a document is cut at the next line end; one core encodes one piece

# Each document with its token ids, of which the last is [SEP]: uint16[n], or uint32[n] above 65,536 tokens.
Encoded = list[tuple[Document, np.ndarray]]


def encode(tokenizer: TextTokenizer, documents: Iterable[Document]) -> Iterator[Encoded]:
    """Yields batches of documents with their token ids, in order. Documents without tokens are left out.

    One batch is encoded in the background while the caller uses the previous one. More threads would not help: the
    library spreads a batch over all cores, and two batches at once would compete for them.
    """
    encoder = tokenizer.build(parse_special=False)
    with ThreadPoolExecutor(max_workers=1) as pool:
        running: deque[Future[Encoded]] = deque()
        for batch in group_documents(documents):
            running.append(pool.submit(_encode_batch, tokenizer, encoder, batch))
            if len(running) > 1:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def group_documents(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Yields batches of documents, each complete as soon as it has _BATCH characters; the last may have fewer."""
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def split_text(text: str) -> Iterator[str]:
    """Yields the pieces of a text, each cut at the first line end after _PIECE characters.

    Pieces of similar length keep all cores busy. If the tokenizer splits at line ends, the cuts change no token.
    """
    start = 0
    while (end := text.find("\n", start + _PIECE)) >= 0:
        yield text[start:end]
        start = end
    yield text[start:]


def _encode_batch(tokenizer: TextTokenizer, encoder: Tokenizer, batch: list[Document]) -> Encoded:
    dtype = np.uint16 if len(tokenizer.tokens) <= 1 << 16 else np.uint32
    texts = [document.text for document in batch]
    pieces = [list(split_text(text)) if tokenizer.splits_at_line_ends else [text] for text in texts]
    encodings = iter(encoder.encode_batch_fast(list(itertools.chain(*pieces)), add_special_tokens=False))
    encoded = []
    for document, its_pieces in zip(batch, pieces, strict=True):
        own_encodings = itertools.islice(encodings, len(its_pieces))
        ids = itertools.chain.from_iterable(encoding.ids for encoding in own_encodings)
        encoded.append((document, np.fromiter(itertools.chain(ids, (tokenizer.sep_id,)), dtype)))
    return [(document, ids) for document, ids in encoded if len(ids) > 1]  # not only [SEP]
