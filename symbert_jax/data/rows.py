"""The rows of a corpus on disk: a TFDS dataset of ArrayRecord files, written once, read by random access."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from symbert_jax.data.vocabulary import VOCAB as VOCAB
from symbert_jax.errors import UserError
from symbert_jax.storage import (
    LOCK,
    absolute,
    bucket_errors_as_user_errors,
    is_bucket,
    lock,
    new_folder,
    parse_json_object,
    read_json,
    sha256,
    write_whole,
)

SPLITS = ("train", "validation")
MANIFEST = "manifest.json"  # written last: without it there is no corpus
UNKNOWN = 0.05  # the share of [UNK] above which a vocabulary does not fit its text

_DATASET = "corpus"
_SHARD = 1 << 26  # bytes of a file, about
_FORMAT = tfds.core.FileFormat.ARRAY_RECORD
_PREPARE = "run `python -m symbert_jax prepare` with this config"
_AGAIN = "remove that folder and prepare the corpus, or copy it, again"


class File(NamedTuple):
    """The size and checksum of a file in the manifest; older ones have no size."""

    bytes: int | None
    sha256: str


class Manifest(NamedTuple):
    """The manifest of a corpus: what `prepare` recorded about it."""

    length: int  # T
    rows: dict[str, int]  # of a split
    unknown: dict[str, float]  # the share of [UNK] among the tokens of a split
    maskable: dict[str, int]  # of a split: the most tokens in one row that masking may choose; T in older corpora
    fewest_maskable: dict[str, int]  # of a split: the fewest such tokens in one row; 0 in older corpora
    vocab: str  # hf:REPOSITORY, sha256 HASH, train SIZE, or nothing in older corpora
    files: dict[str, File]  # every file of the corpus but the manifest; in older corpora at most the vocabulary
    content: dict[str, Any]  # the whole JSON object

    def advice(self) -> tuple[str, str, str, str] | None:
        """Returns the arguments of a `UserError` if the vocabulary does not fit the text, else None."""
        if (share := max(self.unknown.values())) <= UNKNOWN:
            return None
        hint = "prepare the text with a vocabulary that has its words, such as data.vocab=train"
        return "data.vocab", f"{share:.1%} of the tokens of a split are [UNK]", f"at most {UNKNOWN:.0%}", hint


def find(folder: str) -> Path:
    """Returns the corpus in `folder` on a local disk, where random access is cheap: one in a bucket is copied once.

    Raises:
      UserError: there is no finished corpus in the bucket, or it is damaged.
    """
    if not is_bucket(folder):
        return Path(absolute(folder, "data.dir"))
    source = epath.Path(folder)
    with bucket_errors_as_user_errors("data.dir", folder, "a bucket that can be read"):
        if not (source / MANIFEST).exists():
            raise UserError("data.dir", f"no finished corpus in {folder}", f"a folder with {MANIFEST}", _PREPARE)
        manifest = (source / MANIFEST).read_bytes()
        _parse(parse_json_object(manifest.decode(errors="replace"), f"{source / MANIFEST}", "data.dir"), source)
    # of the manifest too: another corpus may be written under the same name
    name = hashlib.sha256(f"{folder}\n".encode() + manifest).hexdigest()[:16]
    copy = Path("~/.cache/symbert_jax/corpora").expanduser() / name
    if not is_finished(copy):
        with bucket_errors_as_user_errors("data.dir", folder, f"a bucket that can be read, and room in {copy.parent}"):
            _copy(source, copy)
    return copy


def _copy(source: epath.Path, copy: Path) -> None:
    """Copies a corpus, whole or not at all. One process of a host copies, and the others wait for it."""
    with lock(copy.parent, "data.dir", wait=True):
        if is_finished(copy):
            return
        for unfinished in copy.parent.glob("[!.]*.*"):  # copies that were killed, of this and of other corpora
            shutil.rmtree(unfinished)
        print(f"copying {source} to {copy}", flush=True)
        with new_folder(epath.Path(copy), "data.dir", remove_failed=True) as new:
            for file in filter(epath.Path.is_file, source.iterdir()):
                file.copy(new / file.name)
            _verify(Path(new), read_manifest(Path(new)), hashes=True, shown=source)


def is_finished(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes the manifest of the corpus in `folder`, with the sizes and checksums of its files and its own checksum.

    facts: the fields of `Manifest`, and others for people.
    """
    paths = sorted(path for path in folder.iterdir() if path.name not in (MANIFEST, LOCK))
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths}
    content = {name: fact for name, fact in facts.items() if name != "sha256"} | {"files": files}
    text = json.dumps(content | {"sha256": _checksum(content)}, indent=2) + "\n"
    write_whole(epath.Path(folder / MANIFEST), text)


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of the corpus in `folder`.

    Raises:
      UserError: there is no finished corpus in `folder`, or the manifest is damaged.
    """
    if not is_finished(folder):
        raise UserError("data.dir", f"no finished corpus in {folder}", f"a folder with {MANIFEST}", _PREPARE)
    return _parse(read_json(folder / MANIFEST, "data.dir"), folder)


def _parse(content: dict[str, Any], folder: Path | epath.Path) -> Manifest:
    """Returns the manifest of the corpus in `folder` with this content; raises `UserError` if it is damaged."""
    checksum = content.pop("sha256", None)
    if checksum not in (None, _checksum(content)):
        raise UserError("data.dir", f"{folder / MANIFEST} with a wrong checksum", "an intact manifest", _AGAIN)
    try:
        files = {name: File(int(file["bytes"]), str(file["sha256"])) for name, file in content.get("files", {}).items()}
        if "vocab_sha256" in content:
            files.setdefault(VOCAB, File(None, str(content["vocab_sha256"])))
        splits, length = {split: content["splits"][split] for split in SPLITS}, int(content["length"])
        return Manifest(
            length=length,
            rows={split: int(splits[split]["rows"]) for split in SPLITS},
            unknown={split: float(splits[split].get("unk_share", 0)) for split in SPLITS},
            maskable={split: int(splits[split].get("most_maskable", length)) for split in SPLITS},
            fewest_maskable={split: int(splits[split].get("fewest_maskable", 0)) for split in SPLITS},
            vocab=str(content.get("vocab", "")),
            files=files,
            content=content,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        found = f"{folder / MANIFEST}: {type(error).__name__}: {error}"
        raise UserError("data.dir", found, "a manifest that prepare wrote", _AGAIN) from None


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def verify(folder: Path, *, hashes: bool) -> None:
    """Compares the files of the corpus in `folder` with its manifest.

    hashes: whether the content of the rows is compared; their sizes and the content of all other files always are.

    Raises:
      UserError: a file is missing, or its size or content differs; names the file.
    """
    _verify(folder, read_manifest(folder), hashes=hashes, shown=folder)


def _verify(folder: Path, manifest: Manifest, *, hashes: bool, shown: Path | epath.Path) -> None:
    """As `verify`, with the folder that errors name in `shown`."""

    def check(item: tuple[str, File]) -> None:
        (name, file), path = item, folder / item[0]
        try:
            if (size := path.stat().st_size) != file.bytes and file.bytes is not None:
                raise UserError("data.dir", f"{shown / name} of {size:,} bytes", f"{file.bytes:,} bytes", _AGAIN)
            if (hashes or not name.startswith(f"{_DATASET}-")) and sha256(path) != file.sha256:
                raise UserError("data.dir", f"{shown / name}, changed", f"the checksum in {MANIFEST}", _AGAIN)
        except OSError as error:
            raise UserError("data.dir", f"{shown / name}: {error.strerror}", "a readable file", _AGAIN) from None

    with ThreadPoolExecutor() as pool:
        list(pool.map(check, manifest.files.items()))


class Split:
    """Random access to the rows of one split: element i is `{"tokens": uint16[T]}`, [CLS] first and [SEP] last.

    Raises:
      UserError: rows that are read are damaged.
    """

    def __init__(self, folder: Path, split: str):
        builder = tfds.builder_from_directory(folder)
        self._source: Any = builder.as_data_source(split)
        info = builder.info.splits[split]
        self._files, self._ends = info.filepaths, np.cumsum(info.shard_lengths)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[dict[str, Any]]:
        try:
            rows: Sequence[dict[str, Any]] = self._source.__getitems__(indices)
            return rows
        except Exception as error:  # ArrayRecord and TFDS raise anything for a damaged file, and do not name it
            if len(indices) > 1:
                return [self[index] for index in indices]
            file = self._files[np.searchsorted(self._ends, indices[0], "right")]
            hint = f"if the file is damaged, {_AGAIN}"
            raise UserError("data.dir", f"{file}, row {indices[0]}: {error}", "a readable row", hint) from error


def open_split(folder: Path, split: str, length: int) -> Split:
    """Opens the rows of a split, whose files must have the sizes in the manifest.

    split: train or validation. length: the T of the model.

    Raises:
      UserError: there is no finished corpus in `folder`, it is damaged, its rows have another length, or the split is
        empty.
    """
    manifest = read_manifest(folder)
    if manifest.length != length:
        wanted = f"{manifest.length}, the length of the rows in {folder}"
        raise UserError("model.length", str(length), wanted, f"or name another data.dir and {_PREPARE}")
    if not manifest.rows[split]:
        hint = f"raise data.validation_fraction, name another data.dir and {_PREPARE}"
        raise UserError("data.dir", f"no {split} rows in {folder}", "at least one", hint)
    _verify(folder, manifest, hashes=False, shown=folder)
    try:
        rows = Split(folder, split)
        count = len(rows)
    except Exception as error:  # TFDS raises anything for damaged descriptions
        raise UserError("data.dir", f"{folder}: {type(error).__name__}: {error}", "intact files", _AGAIN) from error
    if count != manifest.rows[split]:
        wanted = f"{manifest.rows[split]}, as {MANIFEST} says"
        raise UserError("data.dir", f"{count} {split} rows in {folder}", wanted, _AGAIN)
    return rows


class Writer:
    """Cuts one split's stream of tokens into rows uint16[T] and writes them to files of bounded size.

    Raises:
      UserError: a file cannot be written.
    """

    def __init__(self, folder: Path, split: str, length: int, cls: int, sep: int, unk: int):
        self.shards: list[int] = []  # rows of each file
        self.most_maskable, self.fewest_maskable = 0, length  # tokens of a row that are neither [UNK] nor [SEP]
        self._unmaskable = np.array([unk, sep], np.uint16)
        self._length, self._frame = length, (cls, sep)
        self._tail = np.empty(0, np.uint16)  # tokens that do not fill a row yet
        self._file: ArrayRecordWriter | None = None
        self._template = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=_DATASET,
            split=split,
            filetype_suffix=_FORMAT.file_suffix,
            template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",  # their number is not known yet
        )
        # All rows are of one size, so TFDS frames them with the same bytes. Asking its serializer for every
        # row would cost a fifth of the tokenizer's time.
        empty = np.zeros(length, np.uint16)
        self._head = _features(length).serialize_example({"tokens": empty}).removesuffix(empty.tobytes())

    @property
    def rows(self) -> int:
        return sum(self.shards)

    def add(self, tokens: np.ndarray) -> None:
        """Appends tokens, uint16[any], to the stream."""
        stream, inner = np.concatenate([self._tail, tokens]), self._length - 2
        count = len(stream) // inner
        rows = np.empty((count, self._length), np.uint16)
        rows[:, 0], rows[:, -1] = self._frame
        rows[:, 1:-1] = stream[: count * inner].reshape(count, inner)
        self._tail = stream[count * inner :]
        maskable = (~np.isin(rows[:, 1:-1], self._unmaskable)).sum(axis=1)
        self.most_maskable = max(self.most_maskable, int(maskable.max(initial=0)))
        self.fewest_maskable = min(self.fewest_maskable, int(maskable.min(initial=self._length)))
        with self._write_errors():
            for row in rows:
                self._write(self._head + row.tobytes())

    def close(self) -> int:
        """Finishes the last file; returns how many tokens are dropped because they fill no row."""
        if self._file:
            with self._write_errors():
                self._file.close()
        return len(self._tail)

    def info(self) -> tfds.core.SplitInfo:
        return tfds.core.SplitInfo(
            name=self._template.split,
            shard_lengths=self.shards,
            num_bytes=self.rows * (len(self._head) + 2 * self._length),
            filename_template=self._template,
        )

    def _write(self, record: bytes) -> None:
        if not self._file or self.shards[-1] * len(record) >= _SHARD:
            self.close()
            path = self._template.sharded_filepath(shard_index=len(self.shards), num_shards=None)
            # Compression would save nothing on a single row and cost five times the writing.
            self._file = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
            self.shards.append(0)
        self._file.write(record)
        self.shards[-1] += 1

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Converts ArrayRecord's exceptions to `UserError`."""
        try:
            yield
        except RuntimeError as error:  # it names the file
            hint = "make room or name another data.dir, and prepare again"
            raise UserError("data.dir", str(error), "a disk that can be written, with room", hint) from None


def write_info(folder: Path, length: int, splits: Iterable[tfds.core.SplitInfo]) -> None:
    """Writes what makes the files in `folder` a dataset for `tfds.builder_from_directory`."""
    identity = tfds.core.DatasetIdentity(
        name=_DATASET, version=tfds.core.Version("1.0.0"), data_dir=os.fspath(folder), module_name=__name__
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Rows of WordPiece tokens: [CLS], a cut of the documents joined with [SEP], [SEP].",
        features=_features(length),
    )
    info.set_file_format(_FORMAT)
    info.set_splits(tfds.core.SplitDict(splits))
    info.write_to_directory(folder)


def _features(length: int) -> tfds.features.FeaturesDict:
    tokens = tfds.features.Tensor(shape=(length,), dtype=np.uint16, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.FeaturesDict({"tokens": tokens})
