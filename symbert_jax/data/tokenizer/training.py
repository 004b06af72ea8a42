"""Trains a tokenizer on the words of a corpus: BERT's WordPiece, or byte-level BPE; uncased or cased."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from symbert_jax.data.tokenizer.json_tokenizer import JsonTokenizer
from symbert_jax.data.tokenizer.text_tokenizer import PREFIX, Roles, TextTokenizer
from symbert_jax.data.tokenizer.wordpiece import MAX_WORD_LENGTH, Normalization, WordPiece, make_normalizer
from symbert_jax.data.vocabulary import CLS, MASK, PAD, SEP, SPECIAL, UNK
from symbert_jax.errors import UserError

_TRAIN = "train"
_MODELS = ("wordpiece", "bpe")


class Training(NamedTuple):
    """What kind of tokenizer to train."""

    model: str  # one of _MODELS
    lowercase: bool  # WordPiece also strips accents then, as in BERT

    def __str__(self) -> str:
        """Returns a name for manifests: `train` for UNCASED_WORDPIECE."""
        name = _TRAIN if self.model == UNCASED_WORDPIECE.model else f"{_TRAIN}:{self.model}"
        return name if self.lowercase else f"{name} cased"


UNCASED_WORDPIECE = Training("wordpiece", lowercase=True)


def find_training(vocab: str, lowercase: bool) -> Training | None:
    """Returns the kind of tokenizer that `config.data.vocab` asks to train; None if it names a tokenizer.

    Raises:
      UserError: there is no such kind.
    """
    name, _, model = vocab.partition(":")
    if name != _TRAIN or vocab == f"{_TRAIN}:":
        return None
    if model and model not in _MODELS:
        raise UserError("data.vocab", vocab, " or ".join(f"{_TRAIN}:{model}" for model in _MODELS))
    return Training(model or UNCASED_WORDPIECE.model, lowercase)


def count_words(texts: Iterable[str], training: Training = UNCASED_WORDPIECE) -> Counter[str]:
    """Returns how often each word occurs in texts. The counts of parts of the texts add up to those of all.

    Memory grows with the number of distinct words, not with the texts. Words longer than `MAX_WORD_LENGTH` are ignored.
    """
    normalizer, splitter = _components(training)
    chunks: Counter[str] = Counter()  # pieces of normalized text between white space; each may hold several words
    words: Counter[str] = Counter()

    def count_chunk(chunk: str, count: int) -> None:
        for word, (start, end) in splitter.pre_tokenize_str(chunk):
            if end - start <= MAX_WORD_LENGTH:
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


def train(counts: Mapping[str, int], size: int, training: Training = UNCASED_WORDPIECE) -> TextTokenizer:
    """Returns a tokenizer of at most `size` tokens; the same for the same counts, in whatever order.

    A BPE tokenizer has at least a token for each of the 256 bytes, and its special tokens.

    counts: how often each word occurs, from `count_words`.
    """
    words = dict(sorted(counts.items()))
    return (_train_bpe if training.model == "bpe" else _train_wordpiece)(words, size, training)


def _components(training: Training) -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer]:
    """Returns what the tokenizer will do to a text before its model sees it."""
    if training.model == "wordpiece":
        return make_normalizer(_normalization(training)), pre_tokenizers.BertPreTokenizer()
    # As in RoBERTa and ModernBERT, except that all white space counts as one blank, and that a text begins with one:
    # the words at the beginning of a text or of a line have the same tokens as all others.
    lowercase = [normalizers.Lowercase()] if training.lowercase else []
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return (
        normalizers.Sequence([normalizers.NFC(), *lowercase]),
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), byte_level]),
    )


def _normalization(training: Training) -> Normalization:
    return Normalization(lowercase=training.lowercase, strip_accents=training.lowercase)


def _train_wordpiece(words: Mapping[str, int], size: int, training: Training) -> WordPiece:
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
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=known,
        initial_alphabet=sorted(alphabet),
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=PREFIX,
        show_progress=False,
    )
    tokenizer = _run(trainer, models.WordPiece(unk_token=UNK), words)
    ids = tokenizer.get_vocab()
    return WordPiece(tuple(sorted(ids, key=ids.__getitem__)), _normalization(training))


def _train_bpe(words: Mapping[str, int], size: int, training: Training) -> JsonTokenizer:
    roles, special = Roles(pad=0, cls=1, sep=2, mask=3, unk=None), [PAD, CLS, SEP, MASK]
    # The bytes are numbered by their characters, and every word consists of them, so nothing depends on a hash map.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer = _run(trainer, models.BPE(), words)
    tokenizer.normalizer, tokenizer.pre_tokenizer = _components(training)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(CLS, roles.cls), (SEP, roles.sep)],
    )
    tokenizer.decoder = decoders.ByteLevel()
    ids = tokenizer.get_vocab()
    definition = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False)
    return JsonTokenizer(tuple(sorted(ids, key=ids.__getitem__)), roles, definition)


def _run(trainer: trainers.Trainer, model: models.Model, words: Mapping[str, int]) -> Tokenizer:
    """Returns a tokenizer with the trained model."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # The trainer counts words itself, so each word is given as often as it occurs, in texts of at most 4096 words.
    repeated = (f"{word} " * count for word, total in words.items() for count in _split_count(total, largest=4096))
    tokenizer.train_from_iterator(repeated, trainer)
    return tokenizer


def _split_count(total: int, largest: int) -> Iterator[int]:
    """Yields numbers of at most `largest` that add up to `total`."""
    yield from (min(largest, total - start) for start in range(0, total, largest))
