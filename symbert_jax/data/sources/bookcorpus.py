"""BookCorpus, which TFDS does not have: converts a directory of books to a TFDS dataset."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from etils import epath

from symbert_jax.data.sources import json_lines, plain_text, tfds_text
from symbert_jax.data.sources.files import find_in_folder
from symbert_jax.errors import UserError
from symbert_jax.storage import add_path_to_os_errors, is_bucket, new_folder

# Increase the version if the division of books into documents changes, so that no older dataset is used.
_NAME, _VERSION = "bookcorpus", "1.1.0"
_ENDINGS = (".txt", ".jsonl")  # `find_in_folder` also finds compressed files, such as .txt.gz
_FILE_DOCUMENTS = 1 << 12  # documents per file of the dataset
_BATCH = 1 << 22  # characters after which the documents read so far are written


def build(directory: Path) -> epath.Path:
    """Returns the folder of the TFDS dataset of the books in `directory`.

    Writes the dataset unless there is one for books of the same paths, sizes and modification times.

    An example has one field, `text`: a document of a `.txt` file, as `plain_text.read` divides it, or the value that an
    object in a `.jsonl` file has for the key `text`. Examples are in the order of the files.

    Raises:
      UserError: there are no books, one cannot be read, or the dataset cannot be written.
    """
    digest = hashlib.sha256()
    for path in find_in_folder(directory, _ENDINGS):
        status = path.stat()
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    data_dir = tfds_text.data_dir()
    if is_bucket(data_dir):
        raise UserError("TFDS_DATA_DIR", os.fspath(data_dir), "a folder on a disk, for the dataset of books")
    folder = data_dir / _NAME / digest.hexdigest()[:16] / _VERSION
    if not tfds_text.is_dataset(folder):
        with new_folder(folder, "TFDS_DATA_DIR", wait=True, remove_failed=True) as work:
            if not tfds_text.is_dataset(folder):  # another run may have finished it while this one waited
                print(f"reading the books in {directory} into {folder}", flush=True)
                _write(directory, work)
    return folder


def _write(directory: Path, folder: epath.Path) -> None:
    """Writes the dataset in batches. TFDS's own builders would hold all documents in memory to keep the order."""
    identity = tfds.core.DatasetIdentity(
        name=_NAME, version=tfds.core.Version(_VERSION), data_dir=os.fspath(folder), module_name=__name__
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Books from a directory of text files.",
        features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
    )
    try:
        with add_path_to_os_errors(folder):
            writer = tfds.core.SequentialWriter(info, _FILE_DOCUMENTS, file_format=tfds.core.FileFormat.ARRAY_RECORD)
            writer.initialize_splits(["train"])
            batch, size = list[dict[str, str]](), 0
            for text in _documents(directory):
                batch.append({"text": text})
                size += len(text)
                if size >= _BATCH:  # each call also writes dataset_info.json again, so calls are few
                    writer.add_examples({"train": batch})
                    batch, size = [], 0
            writer.add_examples({"train": batch})
            writer.close_all()
    except RuntimeError as error:  # from ArrayRecord, whose message names the file
        raise UserError("TFDS_DATA_DIR", str(error), "a disk that can be written, with room") from None


def _documents(directory: Path) -> Iterator[str]:
    for path in find_in_folder(directory, _ENDINGS):
        is_json = ".jsonl" in path.name.lower()  # also .jsonl.gz and its like
        yield from json_lines.read(path) if is_json else plain_text.read(path)
