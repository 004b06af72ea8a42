"""The manifest of a corpus: what `prepare` recorded about its rows and files. The files are checked against it."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from symbert_jax.data.rows import DAMAGE_HINT, DATASET
from symbert_jax.data.vocabulary import VOCAB
from symbert_jax.errors import Advice, UserError
from symbert_jax.storage import LOCK, parse_json_object, read_text, sha256, write_whole

SPLITS = ("train", "validation")
MANIFEST = "manifest.json"  # written last: a folder without it is not a corpus
PREPARE_HINT = "run `python -m symbert_jax prepare` with this config"

_MAX_UNKNOWN = 0.05  # the largest fraction of [UNK] among the tokens of a split without a warning


class File(NamedTuple):
    """The size and checksum of a file of the corpus, as the manifest records them."""

    bytes: int | None  # None in older manifests, which do not record it
    sha256: str


class Manifest(NamedTuple):
    """The manifest of a corpus. A field that an older manifest lacks has the default given here."""

    length: int  # T
    row_counts: dict[str, int]  # by split
    unknown: dict[str, float]  # by split, the fraction of its tokens that are [UNK]; 0 by default
    most_maskable: dict[str, int]  # by split, the largest number of tokens in a row that are not special; T by default
    fewest_maskable: dict[str, int]  # by split, the smallest such number; 0 by default
    padding: dict[str, float]  # by split, the fraction of its tokens that are [PAD]; 0 by default
    vocab: str  # the vocabulary: hf:REPOSITORY, sha256 HASH or train SIZE; empty by default
    files: dict[str, File]  # by name, all files but the manifest; in older manifests only the vocabulary, or none
    content: dict[str, Any]  # the whole JSON object without its checksum

    def advice(self) -> Advice | None:
        """Returns an `Advice` if the vocabulary does not fit the text."""
        if (unknown := max(self.unknown.values())) <= _MAX_UNKNOWN:
            return None
        found = f"{unknown:.1%} of the tokens of a split are [UNK]"
        hint = "prepare the text with a vocabulary that has its words, such as data.vocab=train"
        return Advice("data.vocab", found, f"at most {_MAX_UNKNOWN:.0%}", hint)


def is_finished(folder: Path) -> bool:
    """Whether `folder` holds a finished corpus."""
    return (folder / MANIFEST).is_file()


def describe(path: Path) -> File:
    """Returns the size and checksum of a file."""
    return File(path.stat().st_size, sha256(path))


def write_manifest(folder: Path, facts: Mapping[str, Any], known: Mapping[str, File] | None = None) -> None:
    """Writes the manifest of the corpus in `folder`, with the sizes and checksums of the files and its own checksum.

    facts: the entries that `parse_manifest` reads, and others that only people read.
    known: files whose size and checksum the caller has, by name; they need not be in `folder`. All others are read.
    """
    known = known or {}
    others = [path for path in folder.iterdir() if path.is_file() and path.name not in (MANIFEST, LOCK, *known)]
    found = {path.name: describe(path) for path in others} | dict(known)
    files = {name: found[name]._asdict() for name in sorted(found)}
    content = {name: fact for name, fact in facts.items() if name != "sha256"} | {"files": files}
    text = json.dumps(content | {"sha256": _checksum(content)}, indent=2) + "\n"
    write_whole(epath.Path(folder / MANIFEST), text)


def read_manifest(folder: Path) -> Manifest:
    """Returns the manifest of the corpus in `folder`.

    Raises:
      UserError: there is no finished corpus in `folder`, or the manifest is damaged.
    """
    if not is_finished(folder):
        raise UserError("data.dir", f"no finished corpus in {folder}", f"a folder with {MANIFEST}", PREPARE_HINT)
    return parse_manifest(read_text(folder / MANIFEST, "data.dir"), folder)


def parse_manifest(text: str, folder: Path | epath.Path) -> Manifest:
    """Returns the manifest of the corpus in `folder` from the text of its file.

    Raises:
      UserError: the manifest is damaged.
    """
    content = parse_json_object(text, f"{folder / MANIFEST}", "data.dir")
    checksum = content.pop("sha256", None)
    if checksum not in (None, _checksum(content)):
        raise UserError("data.dir", f"{folder / MANIFEST} with a wrong checksum", "an intact manifest", DAMAGE_HINT)
    try:
        files = {name: File(int(file["bytes"]), str(file["sha256"])) for name, file in content.get("files", {}).items()}
        if "vocab_sha256" in content:  # in older manifests the only checksum
            files.setdefault(VOCAB, File(bytes=None, sha256=str(content["vocab_sha256"])))
        splits, length = {split: content["splits"][split] for split in SPLITS}, int(content["length"])
        return Manifest(
            length=length,
            row_counts={split: int(splits[split]["rows"]) for split in SPLITS},
            unknown={split: float(splits[split].get("unk_share", 0)) for split in SPLITS},
            most_maskable={split: int(splits[split].get("most_maskable", length)) for split in SPLITS},
            fewest_maskable={split: int(splits[split].get("fewest_maskable", 0)) for split in SPLITS},
            padding={split: float(splits[split].get("padding_share", 0)) for split in SPLITS},
            vocab=str(content.get("vocab", "")),
            files=files,
            content=content,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        found = f"{folder / MANIFEST}: {type(error).__name__}: {error}"
        raise UserError("data.dir", found, "a manifest that prepare wrote", DAMAGE_HINT) from None


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_files(folder: Path, *, read_rows: bool, source: epath.Path | None = None) -> None:
    """Compares the sizes and checksums of the files of the corpus in `folder` with its manifest.

    Sizes that an older manifest lacks are not compared.

    read_rows: whether to read the row files, too; if not, their checksums are not compared.
    source: the folder of which `folder` is a copy, if any; errors name it instead of the copy.

    Raises:
      UserError: there is no finished corpus in `folder`, or a file is missing or differs; the error names the file.
    """
    files = read_manifest(folder).files

    def check(name: str, file: File) -> None:
        path, original = folder / name, (source or folder) / name
        try:
            if (size := path.stat().st_size) != file.bytes and file.bytes is not None:
                raise UserError("data.dir", f"{original} of {size:,} bytes", f"{file.bytes:,} bytes", DAMAGE_HINT)
            if (read_rows or not name.startswith(f"{DATASET}-")) and sha256(path) != file.sha256:
                raise UserError("data.dir", f"{original}, changed", f"the checksum in {MANIFEST}", DAMAGE_HINT)
        except OSError as error:
            raise UserError("data.dir", f"{original}: {error.strerror}", "a readable file", DAMAGE_HINT) from None

    with ThreadPoolExecutor() as pool:
        list(pool.map(check, files.keys(), files.values()))
