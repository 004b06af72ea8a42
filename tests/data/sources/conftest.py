"""Writes small sources of JSON lines and TFRecord, and reads sources."""

import gzip
import json
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from tensorboardX.record_writer import RecordWriter

from symbert_jax.data import sources

TEXTS = ["First document,\nof two lines.", "Zweites, mit ümläuten 中", "third"]


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where prepared TFDS datasets are looked up; at first, it does not exist."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


def read(source: str) -> list[str]:
    return list(sources.documents(source))


def write_json_lines(path: Path, *texts: str) -> None:
    content = "".join(json.dumps({"title": "t", "text": text}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def write_tf_records(folder: Path, texts: list[str], claimed: int | None = None, split: str = "train") -> Path:
    """Writes a TFDS dataset of one TFRecord file, with the writer of tensorboardX; returns the path of the file.

    folder: its name is the version of the dataset.
    claimed: the number of records that dataset_info.json gives; None: that of `texts`.
    """
    features = tfds.features.FeaturesDict({"title": tfds.features.Text(), "text": tfds.features.Text()})
    folder.mkdir(parents=True)
    path = folder / f"handmade-{split}.tfrecord-00000-of-00001"
    writer = RecordWriter(str(path))
    for text in texts:
        writer.write(features.serialize_example({"title": "a title", "text": text}))
    writer.close()
    identity = tfds.core.DatasetIdentity(
        name="handmade", version=tfds.core.Version(folder.name), data_dir=str(folder), module_name="handmade"
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    info.set_file_format("tfrecord")
    lengths = [len(texts) if claimed is None else claimed]
    info.set_splits(tfds.core.SplitDict([tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=1)]))
    info.write_to_directory(folder)
    return path
