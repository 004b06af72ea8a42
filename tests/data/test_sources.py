"""Each kind of source gives its documents in order, and each mistake one clear error."""

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fsspec import AbstractFileSystem
from tensorboardX.record_writer import RecordWriter

from symbert_jax.data import python_docs, sources
from symbert_jax.errors import UserError

TEXTS = ["First document,\nof two lines.", "Zweites, mit ümläuten 中", "third"]


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


def read(source: str) -> list[str]:
    return list(sources.documents(source))


def json_lines(path: Path, *texts: str) -> None:
    content = "".join(json.dumps({"title": "t", "text": text}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def test_json_lines(tmp_path: Path) -> None:
    json_lines(tmp_path / "b.jsonl.gz", TEXTS[2])
    json_lines(tmp_path / "a.jsonl", TEXTS[0], " \n", TEXTS[1])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("\n")
    assert read(f"jsonl:{tmp_path}/*.jsonl*") == TEXTS


def test_text_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text(TEXTS[0])
    (tmp_path / "deep" / "b.txt").write_text(TEXTS[1])
    (tmp_path / "deep" / "c.txt.gz").write_bytes(gzip.compress(TEXTS[2].encode()))
    assert read(f"text:{tmp_path}/**/*.txt*") == TEXTS


def test_bookcorpus_is_built_once_for_every_state_of_its_directory(tmp_path: Path, data_dir: Path) -> None:
    books = tmp_path / "books"
    books.mkdir()
    (books / "a.txt").write_text(TEXTS[0])
    json_lines(books / "b.jsonl.gz", TEXTS[1])
    (books / "notes.md").write_text("no book")
    assert read(f"bookcorpus:{books}") == TEXTS[:2]
    (built,) = data_dir.glob("bookcorpus/*/*/bookcorpus-train.array_record*")
    before = built.stat().st_mtime_ns
    assert read(f"bookcorpus:{books}") == TEXTS[:2]
    assert built.stat().st_mtime_ns == before
    (books / "c.txt.gz").write_bytes(gzip.compress(TEXTS[2].encode()))
    assert read(f"bookcorpus:{books}") == TEXTS
    assert len(list(data_dir.glob("bookcorpus/*"))) == 2


def tf_records(folder: Path, texts: list[str], counted: int | None = None, split: str = "train") -> Path:
    """A TFDS dataset of TFRecord files, framed by tensorboardX; its info counts `counted` records."""
    features = tfds.features.FeaturesDict({"title": tfds.features.Text(), "text": tfds.features.Text()})
    folder.mkdir(parents=True)
    path = folder / f"hand-{split}.tfrecord-00000-of-00001"
    writer = RecordWriter(str(path))
    for text in texts:
        writer.write(features.serialize_example({"title": "a title", "text": text}))
    writer.close()
    identity = tfds.core.DatasetIdentity(
        name="hand", version=tfds.core.Version(folder.name), data_dir=str(folder), module_name="hand"
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    info.set_file_format("tfrecord")
    lengths = [len(texts) if counted is None else counted]
    info.set_splits(tfds.core.SplitDict([tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=1)]))
    info.write_to_directory(folder)
    return path


def test_tf_records_by_path_and_by_name(data_dir: Path) -> None:
    tf_records(data_dir / "hand" / "config" / "1.9.0", ["an old version"])
    tf_records(data_dir / "hand" / "config" / "1.10.0", TEXTS)
    assert read(f"tfds:{data_dir}/hand/config/1.10.0") == TEXTS
    assert read("tfds:hand/config:1.10.0") == TEXTS
    assert read("tfds:hand/config") == TEXTS  # the newest
    assert read("tfds:hand/config:1.9.0") == ["an old version"]


def test_array_records_by_path(tmp_path: Path, data_dir: Path) -> None:
    many = [f"document {i}" for i in range(150)]
    json_lines(tmp_path / "books.jsonl", *many)
    read(f"bookcorpus:{tmp_path}")
    (folder,) = data_dir.glob("bookcorpus/*/*")
    assert read(f"tfds:{folder}") == many


def test_a_bucket_without_its_library_says_which_one_is_missing() -> None:
    with pytest.raises(UserError, match=r"s3fs.*, wanted the library for this bucket"):
        read("tfds:s3://bucket/wikipedia")


def test_both_formats_out_of_a_bucket(tmp_path: Path, data_dir: Path, bucket: AbstractFileSystem) -> None:
    json_lines(tmp_path / "books.jsonl", *TEXTS)
    read(f"bookcorpus:{tmp_path}")
    (arrays,) = data_dir.glob("bookcorpus/*/*")
    tf_records(tmp_path / "records" / "1.0.0", TEXTS)
    for name, folder in (("arrays", arrays), ("records", tmp_path / "records" / "1.0.0")):
        for path in folder.iterdir():
            bucket.pipe_file(f"gs://bucket/{name}/1.0.0/{path.name}", path.read_bytes())
    assert read("tfds:gs://bucket/arrays/1.0.0") == TEXTS
    assert read("tfds:gs://bucket/records/1.0.0") == TEXTS
    assert read("tfds:gs://bucket/records") == TEXTS  # the newest version
    with pytest.raises(UserError, match="no prepared dataset in gs://bucket/nothing"):
        read("tfds:gs://bucket/nothing")


def cut_record(content: bytes) -> bytes:
    return content[:-10]


def cut_header(content: bytes) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    return content[: 12 + length + 4 + 7]


def flip_length(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


def flip_example(content: bytes) -> bytes:
    return content[:12] + b"\xff" * 4 + content[16:]


@pytest.mark.parametrize(
    "damage, message",
    [
        (cut_record, r"record 2: the file ends within a record"),
        (cut_header, r"record 1: no record begins there"),
        (flip_length, r"record 0: no record begins there"),
        (flip_example, r"record 1: "),
    ],
)
def test_damaged_tf_records(damage: Callable[[bytes], bytes], message: str, data_dir: Path) -> None:
    path = tf_records(data_dir / "1.0.0", TEXTS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"data.sources: found .*{path.name}, {message}.*, wanted an intact file"):
        read(f"tfds:{data_dir}")


def test_a_missing_record_a_missing_file_and_a_missing_split(data_dir: Path) -> None:
    path = tf_records(data_dir / "1.0.0", TEXTS, counted=4)
    with pytest.raises(UserError, match=r"found 3 records in .*tfrecord.*, wanted the 4 that its dataset counts"):
        read(f"tfds:{data_dir}")
    path.unlink()
    with pytest.raises(UserError, match=r"No such file"):
        read(f"tfds:{data_dir}")
    shutil.rmtree(data_dir)
    tf_records(data_dir / "1.0.0", TEXTS, split="test")
    with pytest.raises(UserError, match=r"found splits \['test'\] in .*, wanted a split train"):
        read(f"tfds:{data_dir}")


def test_a_dataset_without_text(data_dir: Path) -> None:
    tf_records(data_dir / "1.0.0", TEXTS)
    number = tfds.features.Scalar(np.int64)
    features = tfds.features.FeaturesDict({"label": number, "text": number})
    features.save_config(str(data_dir / "1.0.0"))
    with pytest.raises(UserError, match=r"found fields \['label', 'text'\] in .*, wanted a text field named text"):
        read(f"tfds:{data_dir}")


NESTED = '''"""B."""
class C:
    """C

       of b."""
    def f(self):
        "f of C"
        def g():
            "g of f"
'''


def test_python_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, installed = tmp_path / "library", tmp_path / "installed"
    for path, text in {
        library / "b.py": NESTED,
        library / "a.py": 'async def h():\n    """h \\d of a"""\nif True:\n    def hidden(): "not walked"',
        library / "nothing.py": "x = 1",
        library / "broken.py": "'''so",
        library / "test" / "t.py": '"""a test"""',
        library / "site-packages" / "s.py": '"""elsewhere"""',
        installed / "half.py": '"""half \\ud800"""',
        installed / "tests" / "p.py": '"""p"""',
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    paths = {"stdlib": str(library), "purelib": str(installed), "platlib": str(installed)}
    monkeypatch.setattr(python_docs.sysconfig, "get_paths", lambda: paths)
    standard, everything = read("python-docs:stdlib"), read("python-docs")
    modules = ["h \\d of a", "B.\n\nC\n\nof b.\n\nf of C\n\ng of f"]
    assert standard[-2:] == modules
    assert any("assert" in topic and len(topic) > 500 for topic in standard[:-2])
    assert everything == [*standard, "half ?", "p"]


@pytest.mark.parametrize(
    "source, message",
    [
        ("json:x", r"found 'json:x', wanted a kind of source; did you mean 'jsonl:GLOB'\?"),
        (
            "python-docs:numpy",
            r"found 'python-docs:numpy', wanted a kind of source; did you mean 'python-docs",
        ),
        ("jsonl:{}/*.jsonl", r"found no file .*/\*.jsonl, wanted a pattern that matches files"),
        ("text:{}", r"found no file "),
        ("bookcorpus:{}", r"found no books in .*, wanted files named \*.txt"),
        (
            "tfds:{}",
            r"found no prepared dataset in .*, wanted a folder with dataset_info.json; prepare it with TFDS",
        ),
        ("tfds:wikipedia/20230601.en", r"found no prepared dataset in .*/tfds/wikipedia/20230601.en, wanted"),
    ],
)
def test_no_such_source_is_said_at_once(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^data.sources: {message}"):
        sources.documents(source.format(tmp_path))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", b"", r"found no document in jsonl:.*, wanted at least one with text"),
        ("a.jsonl", b'{"text": " "}\n{"text": ""}\n', r"found 2 documents, all blank in jsonl:"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "\xff"}\n',
            r"a.jsonl, line 2: invalid start byte, wanted UTF-8",
        ),
        (
            "a.jsonl",
            b'{"text": "a"}\n\n{"text": "\\ud800"}\n',
            r"a.jsonl, line 3: surrogates not allowed, wanted UTF-8",
        ),
        (
            "a.jsonl",
            b'{"text": "a"\n',
            r"a.jsonl, line 1: Expecting ',' delimiter.*, wanted one JSON object a line",
        ),
        (
            "a.jsonl",
            b'{"body": "a"}\n',
            r"a.jsonl, line 1: {\"body\": \"a\"}, wanted an object with the string",
        ),
        ("a.jsonl", b'{"text": 1}\n', r"a.jsonl, line 1: {\"text\": 1}, wanted an object with the string"),
        ("a.jsonl", b'["text"]\n', r"a.jsonl, line 1: \[\"text\"\], wanted an object with the string"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "a"}\n', mtime=0)[:-9],
            r"a.jsonl.gz: .*ended.*, wanted a readable file",
        ),
        ("a.jsonl.gz", b"not gzip", r"a.jsonl.gz: Not a gzipped file .*, wanted a readable file"),
        ("a.txt", b"one\ntwo \xc3(", r"a.txt, line 2: byte 8 is no UTF-8, wanted UTF-8"),
        ("a.txt", b" \n\t", r"found 1 documents, all blank in text:"),
    ],
)
def test_damaged_texts(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^data.sources: .*{message}"):
        read(f"{'text' if name == 'a.txt' else 'jsonl'}:{tmp_path}/a.*")


def test_a_damaged_book_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"data.sources: found .*a.txt, line 1: byte 0 is no UTF-8"):
        read(f"bookcorpus:{tmp_path}")
