"""WordPiece as BERT uncased does it: loading, checking and training a `vocab.txt`.

The only module that knows the tokenizers library.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from etils import epath
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from symbert_jax.data import vocabulary
from symbert_jax.data.vocabulary import CLS, SEP, SPECIAL, UNK
from symbert_jax.errors import UserError

_CONTINUES = "##"  # opens a piece that does not begin a word
_LONGEST = 100  # letters; a longer word is [UNK], as in BERT


def load(vocab: Path | epath.Path, *, parse_special: bool) -> Tokenizer:
    """The tokenizer of `vocab`, a file with one token a line; behaves as BertTokenizerFast uncased does.

    parse_special: whether "[MASK]" in a text is the special token (a person's prompt) or ordinary text
    (a corpus, where no text may forge a document boundary).

    Raises:
      UserError: the file is missing, not UTF-8, holds a token twice or lacks a special one.
    """
    ids = {token: i for i, token in enumerate(vocabulary.read(vocab))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=UNK, max_input_chars_per_word=_LONGEST))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _normalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((SEP, ids[SEP]), (CLS, ids[CLS]))
    tokenizer.decoder = decoders.WordPiece(prefix=_CONTINUES)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.encode_special_tokens = not parse_special
    return tokenizer


def place(vocab: str, texts: Iterable[str], size: int, path: Path) -> None:
    """Writes the vocabulary that `vocab` (a file, hf:REPOSITORY or train) names to `path`.

    texts: what `train` learns from, read once; untouched otherwise.
    size: most tokens the model has room for, and how many `train` makes.

    Raises:
      UserError: there is no such vocabulary, it cannot be used (see `load`), or it is larger than `size`.
    """
    if vocab == "train":
        path.write_text("".join(f"{token}\n" for token in train(texts, size)), encoding="utf-8")
        return
    found = find(vocab)
    if (count := len(vocabulary.read(found))) > size:
        raise UserError("data.vocab", f"{count} tokens in {vocab}", f"at most model.vocab_size={size}")
    shutil.copyfile(found, path)


def find(vocab: str) -> Path:
    """The file of a vocabulary that exists, fetching hf:REPOSITORY from the Hugging Face hub.

    Raises:
      UserError: it does not exist or cannot be fetched.
    """
    if not vocab.startswith("hf:"):
        path = Path(vocab).expanduser()
        if not path.is_file():
            raise UserError("data.vocab", f"no file {vocab}", "a vocab.txt, hf:REPOSITORY or train")
        return path
    from huggingface_hub import hf_hub_download  # a second of import that a local file does not need

    try:
        return Path(hf_hub_download(vocab.removeprefix("hf:"), "vocab.txt"))
    except (OSError, ValueError) as error:  # the hub's errors are all one or the other
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "name a repository that has one, or download it and give its path"
        raise UserError("data.vocab", f"{vocab} ({reason})", "a vocab.txt on the Hugging Face hub", hint) from error


def train(texts: Iterable[str], size: int) -> list[str]:
    """A WordPiece vocabulary of at most `size` tokens learned from `texts`; the same for the same texts.

    Memory grows with the number of distinct words, not with the texts. Words that the encoder makes [UNK] because of
    their length teach nothing.
    """
    normalizer, splitter = _normalizer(), pre_tokenizers.BertPreTokenizer()
    chunks: Counter[str] = Counter()
    words: Counter[str] = Counter()

    def add(chunk: str, times: int) -> None:
        for word, _ in splitter.pre_tokenize_str(chunk):
            if len(word) <= _LONGEST:
                words[word] += times

    for text in texts:
        parts = normalizer.normalize_str(text).split()
        chunks.update(parts)
        for part in [part for part in parts if len(part) > _LONGEST]:
            add(part, 1)
            chunks.pop(part, None)  # not kept: it may be of any length
    for chunk, times in chunks.items():
        add(chunk, times)
    characters: Counter[str] = Counter()
    for word, count in words.items():
        characters.update(dict.fromkeys(word, count))
    ranked = sorted(characters, key=lambda character: (-characters[character], character))
    alphabet = set(ranked[: min(1000, size // 8)])
    inner = alphabet.intersection(*[set().union(*(word[1:] for word in words))])
    # The trainer numbers characters in the order of a hash map that changes from run to run, and breaks ties
    # between merges by number: declared as special tokens they get their numbers from us.
    known = [*SPECIAL, *sorted(alphabet), *(_CONTINUES + character for character in sorted(inner))]
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=known,
        initial_alphabet=sorted(alphabet),
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=_CONTINUES,
        show_progress=False,
    )
    repeated = (f"{word} " * count for word, total in words.items() for count in _parts(total, 4096))
    tokenizer.train_from_iterator(repeated, trainer)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.__getitem__)


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The id of each special token."""
    ids = tokenizer.get_vocab()
    return {token: ids[token] for token in SPECIAL}


def _parts(total: int, most: int) -> Iterator[int]:
    """Numbers of at most `most` that add up to `total`."""
    yield from (min(most, total - start) for start in range(0, total, most))


def _normalizer() -> normalizers.Normalizer:
    return normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True)
