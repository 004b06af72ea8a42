"""Sources of documents."""

import bz2
import functools
import gzip
import json
import lzma
import shutil
from pathlib import Path
from random import Random
from typing import ClassVar

import pyarrow
import pyarrow.parquet
import tensorflow_datasets as tfds
from tensorboardX.record_writer import RecordWriter

from bench.fuzz.attempts import Kind, command
from bench.fuzz.kinds.inputs import SLOW_ODDS, TINY, VOCAB, make_texts, write_texts
from bench.fuzz.mutations.files import change_folder
from symbert_jax.data import sources
from symbert_jax.data.sources import bookcorpus


class Source(Kind):
    """A source that `data.sources` names; all its documents are read or, rarely, a corpus is prepared."""

    source: str

    def make(self, folder: Path) -> None:
        shutil.copyfile(VOCAB, folder / "words")
        (folder / "tiny.py").write_text(TINY)

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        if random.randrange(SLOW_ODDS):
            for _ in sources.documents(self.source):
                pass
        else:
            fields = {"sources": self.source, "vocab": "words", "validation_fraction": 0}
            flags = [f"--config.data.{name}={value}" for name, value in fields.items()]
            command("prepare", "--config=tiny.py", *flags, history=history)


class JsonLines(Source):
    """JSON lines, plain or compressed."""

    scheme, name = "jsonl", "documents.jsonl"
    COMPRESSIONS: ClassVar = {
        "": bytes,
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": functools.partial(pyarrow.compress, codec="zstd", asbytes=True),
    }

    def make(self, folder: Path) -> None:
        super().make(folder)
        for suffix, compress in self.COMPRESSIONS.items():
            (folder / f"{self.name}{suffix}").write_bytes(compress(self.content().encode()))

    def content(self) -> str:
        """Returns the content of the file before compression."""
        return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(make_texts()))

    def reset(self) -> None:
        self.source = f"{self.scheme}:{self.name}"

    def change(self, folder: Path, random: Random) -> list[str]:
        """Changes one file, may rename it, and removes the others."""
        files = sorted(folder.glob(f"{self.name}*"))
        kept = files.pop(random.randrange(len(files)))
        for path in files:
            path.unlink()
        descriptions = change_folder(random, folder, [kept])
        suffix = Path(self.name).suffix
        if not random.randrange(6) and kept.is_file():
            others = (f"a{suffix}.gz", f"a{suffix}.xz", f"[x]{suffix}", f"\udcff{suffix}", f"a{suffix.upper()}")
            kept = kept.rename(folder / random.choice((self.name, *others)))
            descriptions.append(f"renamed to {kept.name!r}")
        self.source = f"{self.scheme}:{random.choice((f'*{suffix}*', kept.name))}"
        return [*descriptions, self.source]


class TextFiles(JsonLines):
    """Text, plain or compressed."""

    scheme, name = "text", "documents.txt"

    def content(self) -> str:
        return "\n".join(make_texts())


class Parquet(JsonLines):
    """Parquet files."""

    suite_attempts = 8

    scheme, name = "parquet", "documents.parquet"

    def make(self, folder: Path) -> None:
        Source.make(self, folder)
        table = pyarrow.table({"id": range(5), "text": make_texts()[:5]})
        pyarrow.parquet.write_table(table, folder / self.name, row_group_size=2, write_page_checksum=True)


class Folder(Source):
    """A source in the folder `data`, whose files are changed."""

    def change(self, folder: Path, random: Random) -> list[str]:
        return change_folder(random, folder / "data")


class Books(Folder):
    """Books as plain text and as JSON lines."""

    suite_attempts = 8
    source = "bookcorpus:./data"

    def make(self, folder: Path) -> None:
        super().make(folder)
        data = folder / "data"
        data.mkdir()
        write_texts(data, count=3)
        (data / "more.jsonl").write_text('{"text": "the cat sat on the mat"}\n{"text": "a cat"}\n')


class ArrayRecords(Folder):
    """A dataset that TFDS prepared as ArrayRecord: its records and its metadata."""

    source = "tfds:./data"

    def make(self, folder: Path) -> None:
        super().make(folder)
        (folder / "books").mkdir()
        write_texts(folder / "books")
        shutil.copytree(bookcorpus.build(folder / "books"), folder / "data")
        shutil.rmtree(folder / "tfds")
        shutil.rmtree(folder / "books")


class TfRecords(Folder):
    """A dataset that TFDS prepared as TFRecord."""

    source = "tfds:./data"

    def make(self, folder: Path) -> None:
        super().make(folder)
        data = folder / "data"
        data.mkdir()
        features = tfds.features.FeaturesDict({"title": tfds.features.Text(), "text": tfds.features.Text()})
        writer = RecordWriter(str(data / "hand-train.tfrecord-00000-of-00001"))
        for i in range(5):
            writer.write(features.serialize_example({"title": "a title", "text": f"the cat sat on mat {i}"}))
        writer.close()
        identity = tfds.core.DatasetIdentity(
            name="hand", version=tfds.core.Version("1.0.0"), data_dir=str(data), module_name="hand"
        )
        info = tfds.core.DatasetInfo(builder=identity, features=features)
        info.set_file_format("tfrecord")
        info.set_splits(tfds.core.SplitDict([tfds.core.SplitInfo(name="train", shard_lengths=[5], num_bytes=1)]))
        info.write_to_directory(data)
