"""BookCorpus is not in TFDS: a directory of books becomes a TFDS dataset."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from etils import epath

from symbert_jax.data.sources import files, tfds_text
from symbert_jax.errors import UserError
from symbert_jax.storage import is_bucket, new_folder

_NAME, _VERSION = "bookcorpus", "1.1.0"  # the version changes with what a document is: datasets outlive a run
_ENDINGS = (".txt", ".jsonl")
_SHARD = 1 << 12  # documents of a file
_BATCH = 1 << 22  # characters written at a time


def build(directory: Path) -> epath.Path:
    """Returns the folder of the TFDS dataset of the books in `directory`; builds it if these files are new or changed.

    Its examples, in the order of the files, are the documents that `files.read_text` finds in `.txt` files and the
    lines of `.jsonl` files, in the field `text`.

    Raises:
      UserError: there are no books, one cannot be read, or the dataset cannot be written.
    """
    listing = hashlib.sha256()
    for path in files.below(directory, _ENDINGS):
        status = path.stat()
        listing.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    datasets = tfds_text.data_dir()
    if is_bucket(datasets):
        raise UserError("TFDS_DATA_DIR", os.fspath(datasets), "a folder of a disk, for the dataset of the books")
    folder = datasets / _NAME / listing.hexdigest()[:16] / _VERSION
    if not tfds_text.is_dataset(folder):
        with new_folder(folder, "TFDS_DATA_DIR", wait=True, remove_failed=True) as work:
            if not tfds_text.is_dataset(folder):  # another run may have read the same books meanwhile
                print(f"reading the books in {directory} into {folder}", flush=True)
                _write(directory, work)
    return folder


def _write(directory: Path, folder: epath.Path) -> None:
    """Writes one document after the other: TFDS's own builders keep a dataset in memory where its order counts."""
    identity = tfds.core.DatasetIdentity(
        name=_NAME, version=tfds.core.Version(_VERSION), data_dir=os.fspath(folder), module_name=__name__
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Books out of a directory of text files.",
        features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
    )
    try:
        writer = tfds.core.SequentialWriter(info, _SHARD, file_format=tfds.core.FileFormat.ARRAY_RECORD)
        writer.initialize_splits(["train"])
        batch, size = list[dict[str, str]](), 0
        for text in _documents(directory):
            batch.append({"text": text})
            size += len(text)
            if size >= _BATCH:  # a call writes the description of the dataset, too
                writer.add_examples({"train": batch})
                batch, size = [], 0
        writer.add_examples({"train": batch})
        writer.close_all()
    except RuntimeError as error:  # of ArrayRecord; names the file
        raise UserError("TFDS_DATA_DIR", str(error), "a disk that can be written, with room") from None


def _documents(directory: Path) -> Iterator[str]:
    for path in files.below(directory, _ENDINGS):
        yield from files.read_json(path) if ".jsonl" in path.name.lower() else files.read_text(path)
