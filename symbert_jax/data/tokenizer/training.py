"""Learns a WordPiece vocabulary from texts."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from symbert_jax.data.tokenizer.wordpiece import MAX_WORD_LENGTH, PREFIX, make_normalizer
from symbert_jax.data.vocabulary import SPECIAL, UNK


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Returns how often each word occurs in texts. The counts of parts of the texts add up to those of all.

    Memory grows with the number of distinct words, not with the texts. Words longer than `MAX_WORD_LENGTH`, which the
    tokenizer replaces by [UNK], are ignored.
    """
    normalizer, splitter = make_normalizer(), pre_tokenizers.BertPreTokenizer()
    chunks: Counter[str] = Counter()  # pieces of normalized text between white space; each may hold several words
    words: Counter[str] = Counter()

    def count_chunk(chunk: str, count: int) -> None:
        for word, _ in splitter.pre_tokenize_str(chunk):
            if len(word) <= MAX_WORD_LENGTH:
                words[word] += count

    for text in texts:
        new_chunks = normalizer.normalize_str(text).split()
        chunks.update(new_chunks)
        for chunk in [chunk for chunk in new_chunks if len(chunk) > MAX_WORD_LENGTH]:
            count_chunk(chunk, 1)
            chunks.pop(chunk, None)  # not kept in memory: it may have any length
    for chunk, count in chunks.items():
        count_chunk(chunk, count)
    return words


def train(counts: Mapping[str, int], size: int) -> list[str]:
    """Returns a WordPiece vocabulary of at most `size` tokens; the same for the same counts, in whatever order.

    counts: how often each word occurs, from `count_words`.
    """
    words = dict(sorted(counts.items()))
    characters: Counter[str] = Counter()
    for word, count in words.items():
        characters.update(dict.fromkeys(word, count))
    ranked = sorted(characters, key=lambda character: (-characters[character], character))
    # Each character may need two tokens, a and ##a. Characters take at most a quarter of the vocabulary.
    alphabet = set(ranked[: min(1000, size // 8)])
    continuing = alphabet & set[str]().union(*(word[1:] for word in words))
    # The trainer numbers characters in the order of a hash map that changes from run to run, and breaks ties between
    # merges by number. Characters that are declared as special tokens are numbered in the order given here.
    known = [*SPECIAL, *sorted(alphabet), *(PREFIX + character for character in sorted(continuing))]
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=known,
        initial_alphabet=sorted(alphabet),
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=PREFIX,
        show_progress=False,
    )
    # The trainer counts words itself, so each word is given as often as it occurs, in texts of at most 4096 words.
    repeated = (f"{word} " * count for word, total in words.items() for count in _split_count(total, largest=4096))
    tokenizer.train_from_iterator(repeated, trainer)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.__getitem__)


def _split_count(total: int, largest: int) -> Iterator[int]:
    """Yields numbers of at most `largest` that add up to `total`."""
    yield from (min(largest, total - start) for start in range(0, total, largest))
