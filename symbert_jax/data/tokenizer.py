"""WordPiece as BERT does it, uncased or cased: reading, checking, writing and training a tokenizer.

A corpus and a workdir hold `vocab.txt`, and beside it `tokenizer.json` where the vocabulary alone would not say how the
tokenizer prepares a text. The only module that knows the tokenizers library.
"""

import hashlib
import json
import os
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
from symbert_jax.data.vocabulary import CLS, MASK, PAD, SEP, SPECIAL, UNK, VOCAB
from symbert_jax.errors import UserError
from symbert_jax.storage import absolute, read_json, read_text, write_whole

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"  # the names of Hugging Face
ROLES = {"unk_token": UNK, "sep_token": SEP, "pad_token": PAD, "cls_token": CLS, "mask_token": MASK}

_CONTINUES = "##"  # opens a piece that does not begin a word
_LONGEST = 100  # characters of a word; a longer one is [UNK]
_ALONE = "make them agree, or name the tokenizer.json itself as the vocabulary: it is then read alone"
# Texts on which tokenizers differ: accents, composed and not, scripts, case, control characters, long words, brackets.
_PROBES = (
    "The cat, UNWANTED: running! don't ... $3.12 -- a1",
    "caf\u00e9 cafe\u0301 \u00c9 \u00df \u0130i \ufb01 \u03a3\u0391\u03a3 \u0419 \u1e9e \u01c5",
    "\u4e2d\u56fdthe\u4e2d \u3042\u30ab\u304c \ud55c\uae00 \u05e9\u05c1\u05b8 \u0e01\u0e33",
    " \t\r\n\u3000\xa0a\x00\x07b\u200bc\u00add\ufffde\u2028f\U0001f44d\U0001f3fd",
    f"{'x' * 100} {'x' * 101} {'ab' * 60}",
    "the [MASK] o[MASK]f[SEP]it [mask] [CLS] [PAD] [UNK] ##s [unused1] <s> </s> <pad> <mask>",
    "",
)


class Normalization(NamedTuple):
    """How a text is prepared before it is cut into tokens. The defaults are those of BERT's uncased models."""

    lowercase: bool = True
    strip_accents: bool = True  # follows `lowercase` where a source does not say
    handle_chinese_chars: bool = True  # each is a word
    clean_text: bool = True  # control characters vanish, white space becomes a blank


UNCASED = Normalization()


class WordPiece(NamedTuple):
    """A tokenizer: all that decides the ids of a text."""

    tokens: tuple[str, ...]  # by id
    normalization: Normalization

    def build(self, *, parse_special: bool) -> Tokenizer:
        """The tokenizer as the library runs it.

        parse_special: whether "[MASK]" in a text is the special token (a person's prompt) or ordinary text
        (a corpus, where no text may forge a document boundary).
        """
        ids = {token: i for i, token in enumerate(self.tokens)}
        tokenizer = Tokenizer(models.WordPiece(ids, unk_token=UNK, max_input_chars_per_word=_LONGEST))
        tokenizer.normalizer = _normalizer(self.normalization)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = _processors(ids[CLS], ids[SEP])[0]
        tokenizer.decoder = decoders.WordPiece(prefix=_CONTINUES)
        tokenizer.add_special_tokens([_special(token) for token in SPECIAL])
        tokenizer.encode_special_tokens = not parse_special
        return tokenizer

    def fingerprint(self) -> str:
        """A SHA-256; of a plain uncased tokenizer that of its vocab.txt."""
        rest = "" if self.normalization == UNCASED else f"{self.normalization}"
        return hashlib.sha256(f"{vocabulary.to_text(self.tokens)}{rest}".encode()).hexdigest()


def load(vocab: Path | epath.Path, *, parse_special: bool) -> Tokenizer:
    """The tokenizer of the corpus or workdir that holds the file `vocab`; see `read` and `WordPiece.build`."""
    return read(vocab).build(parse_special=parse_special)


def read(path: Path | epath.Path, field: str = "data.vocab") -> WordPiece:
    """The tokenizer of a vocab.txt, of a tokenizer.json, or of a folder that holds one or both.

    A tokenizer.json is read alone. To a vocab.txt and to a folder belong the files of Hugging Face that lie there:
    what they say of the tokenizer is what runs, and they must not contradict each other.

    field: names the tokenizer in errors.

    Raises:
      UserError: a file is missing or damaged, two of them differ, or the tokenizer is not WordPiece as BERT does it.
    """
    if path.is_dir():
        folder, vocab, whole = path, path / VOCAB, path / TOKENIZER
    elif path.suffix == ".json":
        return _read_tokenizer(path, field)
    elif path.name == VOCAB:
        folder, vocab, whole = path.parent, path, path.parent / TOKENIZER
    else:
        return _require_known_case(WordPiece(tuple(vocabulary.read(path, field)), UNCASED), path, field)
    stated = _settings(folder, field)
    if not whole.exists():
        if not vocab.exists():
            raise UserError(field, f"no {VOCAB} or {TOKENIZER} in {folder}", "one of them")
        _require_class(folder, field)
        found = WordPiece(tuple(vocabulary.read(vocab, field)), _normalization(stated))
        return found if "lowercase" in stated else _require_known_case(found, vocab, field)
    found = _read_tokenizer(whole, field)
    for name, value in _normalization(found.normalization._asdict() | stated)._asdict().items():
        if value != (runs := getattr(found.normalization, name)):
            raise UserError(field, f"{name} {value} in {folder / SETTINGS}", f"{runs}, as in {whole}", _ALONE)
    if vocab.exists() and (tokens := tuple(vocabulary.read(vocab, field))) != found.tokens:
        pairs = zip((*tokens, None), (*found.tokens, None), strict=False)
        i, (token, runs) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise UserError(field, f"token {i} is {token!r} in {vocab}", f"{runs!r}, as in {whole}", _ALONE)
    return found


def write(found: WordPiece, vocab: Path | epath.Path) -> None:
    """Writes a tokenizer as a corpus and a workdir hold it: the vocab.txt `vocab`, and what belongs beside it."""
    whole = epath.Path(vocab).parent / TOKENIZER
    if found.normalization != UNCASED or _capitals(found.tokens):
        write_whole(whole, found.build(parse_special=True).to_str(pretty=True))
    else:
        whole.unlink(missing_ok=True)
    write_whole(epath.Path(vocab), vocabulary.to_text(found.tokens))


def place(vocab: str, texts: Iterable[str], size: int, path: Path) -> None:
    """Writes the tokenizer that `vocab` (see `find`, or train) names to `path`, a vocab.txt, and beside it.

    texts: what `train` learns from, read once; untouched otherwise.
    size: most tokens the model has room for, and how many `train` makes.

    Raises:
      UserError: there is no such tokenizer, it cannot be used (see `read`), or it has more tokens than `size`.
    """
    found = WordPiece(tuple(train(texts, size)), UNCASED) if vocab == "train" else read(find(vocab))
    if (count := len(found.tokens)) > size:
        raise UserError("data.vocab", f"{count} tokens in {vocab}", f"at most model.vocab_size={size}")
    write(found, path)


def find(vocab: str, field: str = "data.vocab") -> epath.Path:
    """The file or folder that a user names, fetching hf:REPOSITORY from the Hugging Face hub; `read` reads it.

    field: names it in errors.

    Raises:
      UserError: it does not exist or cannot be fetched.
    """
    if not vocab.startswith("hf:"):
        absolute(vocab, field)  # raises on what is no path
        # Links are not resolved: in the hub's cache the files are links, and the files beside them count.
        path = epath.Path(os.path.abspath(Path(vocab).expanduser()))
        if not path.exists():
            wanted = "a vocab.txt, a tokenizer.json, a folder with one of them, hf:REPOSITORY or train"
            raise UserError(field, f"no file {vocab}", wanted)
        return path
    from huggingface_hub import snapshot_download  # a second of import that a local file does not need

    try:
        files = [VOCAB, TOKENIZER, SETTINGS, "special_tokens_map.json", "added_tokens.json"]
        return epath.Path(snapshot_download(vocab.removeprefix("hf:"), allow_patterns=files))
    except (OSError, ValueError) as error:  # the hub's errors are all one or the other
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "name a repository that has one, or download it and give its path"
        raise UserError(field, f"{vocab} ({reason})", "a tokenizer on the Hugging Face hub", hint) from error


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


def _normalizer(normalization: Normalization = UNCASED) -> normalizers.Normalizer:
    lowercase, strip_accents, handle_chinese_chars, clean_text = normalization
    return normalizers.BertNormalizer(
        clean_text=clean_text,
        handle_chinese_chars=handle_chinese_chars,
        strip_accents=None if strip_accents == lowercase else strip_accents,
        lowercase=lowercase,
    )


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def _capitals(tokens: Iterable[str]) -> list[str]:
    """The ordinary tokens that no lower-cased text contains."""
    lower = normalizers.Lowercase()  # Python's knows other letters than the library's
    found = [token for token in tokens if token.lower() != token and not (token[0] == "[" and token[-1] == "]")]
    return [token for token in found if lower.normalize_str(token) != token]


def _require_known_case(found: WordPiece, vocab: Path | epath.Path, field: str) -> WordPiece:
    """Raises `UserError` for a vocabulary with capitals where nothing says whether texts are lower-cased."""
    if capitals := _capitals(found.tokens):
        hint = f'put it, as {VOCAB}, in a folder with a {SETTINGS} of {{"do_lower_case": false}} (or true)'
        some = f"{len(capitals)} tokens with capitals in {vocab}, such as {capitals[0]!r}"
        raise UserError(field, some, "to be told whether texts are lower-cased", hint)
    return found


def _normalization(stated: dict[str, Any]) -> Normalization:
    """What a source states, and the usual for what it leaves out or sets to None."""
    stated = {name: value for name, value in stated.items() if value is not None}
    return Normalization(**{"strip_accents": stated.get("lowercase", True)} | stated)


_STATED = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
    "clean_text": "clean_text",
}


def _settings(folder: Path | epath.Path, field: str) -> dict[str, bool | None]:
    """What Hugging Face's small files beside a vocabulary state of its `Normalization`.

    Raises:
      UserError: they are damaged, or state what this tokenizer does not do.
    """
    stated: dict[str, bool | None] = {}
    for file in (folder / "special_tokens_map.json", folder / SETTINGS):
        settings = read_json(file, field) if file.exists() else {}
        for role, token in ROLES.items():
            found = settings.get(role, token)
            if (found.get("content") if isinstance(found, dict) else found) != token:
                raise UserError(field, f"{role} {_short(found)} in {file}", f"{token}, as BERT has it")
        for name, wanted in (("do_basic_tokenize", True), ("never_split", None), ("additional_special_tokens", None)):
            if (found := settings.get(name, wanted)) not in (wanted, None, []):
                raise UserError(field, f"{name} {_short(found)} in {file}", f"{wanted or 'none'}")
        added = settings.get("added_tokens_decoder", {})
        contents = [each.get("content") if isinstance(each, dict) else each for each in _values(added)]
        _require_special(contents, file, field)
        for name in _STATED.keys() & settings.keys():
            if not (isinstance(settings[name], bool) or (settings[name] is None and name == "strip_accents")):
                raise UserError(field, f"{name} {_short(settings[name])} in {file}", "true or false")
            stated[_STATED[name]] = settings[name]
    if (file := folder / "added_tokens.json").exists():
        _require_special(list(read_json(file, field)), file, field)
    return stated


def _require_class(folder: Path | epath.Path, field: str) -> None:
    """Raises `UserError` where a vocab.txt without a tokenizer.json is of another tokenizer than BERT's."""
    file, known = folder / SETTINGS, ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
    found = (read_json(file, field) if file.exists() else {}).get("tokenizer_class") or known[0]
    if f"{found}".removesuffix("Fast") not in known:
        raise UserError(field, f"tokenizer_class {_short(found)} in {file}", "BertTokenizer", f"or a {TOKENIZER}")


def _require_special(tokens: list[Any], file: Path | epath.Path, field: str) -> None:
    if others := [token for token in tokens if token not in SPECIAL]:
        wanted = f"no other than {' '.join(SPECIAL)}: ones that texts are searched for are not supported"
        raise UserError(field, f"added token {_short(others[0])} in {file}", wanted)


def _read_tokenizer(file: Path | epath.Path, field: str) -> WordPiece:
    """The tokenizer of a tokenizer.json, which ours is compared with on odd texts."""
    read_json(file, field)  # says better than the library what is no JSON
    try:
        source = Tokenizer.from_str(read_text(file, field))
    except Exception as error:  # the library has no type of its own
        raise UserError(field, f"{file}: {error}", "a tokenizer that the package tokenizers reads") from None
    model, normalizer, splitter = source.model, source.normalizer, source.pre_tokenizer
    kinds = (
        ("model", model, models.WordPiece),
        ("normalizer", normalizer, normalizers.BertNormalizer),
        ("pre_tokenizer", splitter, pre_tokenizers.BertPreTokenizer),
    )
    for part, found, kind in kinds:
        if not isinstance(found, kind):
            name = "none" if found is None else type(found).__name__
            raise UserError(field, f"{part} {name} in {file}", f"{kind.__name__}, as BERT has it")
    for name, wanted in (
        ("unk_token", UNK),
        ("continuing_subword_prefix", _CONTINUES),
        ("max_input_chars_per_word", _LONGEST),
    ):
        if (value := getattr(model, name)) != wanted:
            raise UserError(field, f"{name} {value!r} in {file}", f"{wanted!r}, as BERT has it")
    _require_special([token.content for token in source.get_added_tokens_decoder().values()], file, field)
    tokens = vocabulary.from_ids(source.get_vocab(), file, field)
    stated = {name: getattr(normalizer, name) for name in Normalization._fields}
    ours = WordPiece(tuple(tokens), _normalization(stated))
    forms = [json.loads(form.__getstate__()) for form in _processors(tokens.index(CLS), tokens.index(SEP))]
    if source.post_processor is None or json.loads(source.post_processor.__getstate__()) not in forms:
        raise UserError(field, f"another post_processor in {file}", f"one that makes {CLS} A {SEP} B {SEP} of texts")
    _require_same(source, ours, file, field)
    return ours


def _require_same(source: Tokenizer, ours: WordPiece, file: Path | epath.Path, field: str) -> None:
    """Raises `UserError` where the tokenizer of a source gives a text other ids than ours."""
    source.no_truncation()
    source.no_padding()
    source.post_processor = _processors(ours.tokens.index(CLS), ours.tokens.index(SEP))[0]
    there = {token.content for token in source.get_added_tokens_decoder().values()}
    source.add_special_tokens([_special(token) for token in SPECIAL if token not in there])
    some = " ".join(ours.tokens[:: max(1, len(ours.tokens) // 1000)])
    for parse_special in (True, False):
        source.encode_special_tokens = not parse_special
        run = ours.build(parse_special=parse_special)
        for text in (*_PROBES, some, some.upper()):
            theirs, found = source.encode(text), run.encode(text)
            if theirs.ids != found.ids:
                i = next((i for i, (a, b) in enumerate(zip(theirs.ids, found.ids, strict=False)) if a != b), 0)
                makes, wanted = " ".join(theirs.tokens[i:]), " ".join(found.tokens[i:])
                differ = f"{file}, which makes of {text[:60]!r} {makes[:60]!r}"
                raise UserError(field, differ, f"{wanted[:60]!r}, as BERT's tokenizer does")


def _processors(cls: int, sep: int) -> tuple[processors.PostProcessor, ...]:
    """The two forms in which tokenizer.json files say how BERT frames texts."""
    return (
        processors.BertProcessing((SEP, sep), (CLS, cls)),
        processors.TemplateProcessing(
            single=f"{CLS} $A {SEP}", pair=f"{CLS} $A {SEP} $B:1 {SEP}:1", special_tokens=[(CLS, cls), (SEP, sep)]
        ),
    )


def _values(found: Any) -> list[Any]:
    return list(found.values()) if isinstance(found, dict) else [found]


def _short(value: Any) -> str:
    return reprlib.repr(value)
