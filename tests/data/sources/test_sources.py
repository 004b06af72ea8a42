"""Each kind of source yields its documents in order; each mistake is one error."""

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

from symbert_jax.data import sources
from symbert_jax.data.sources import bookcorpus, python_docs
from symbert_jax.errors import UserError

TEXTS = ["First document,\nof two lines.", "Zweites, mit ümläuten 中", "third"]


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


def read(source: str) -> list[str]:
    return list(sources.documents(source))


def write_json_lines(path: Path, *texts: str) -> None:
    content = "".join(json.dumps({"title": "t", "text": text}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def test_json_lines_yield_their_texts(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "b.jsonl.gz", TEXTS[2])
    write_json_lines(tmp_path / "a.jsonl", TEXTS[0], " \n", TEXTS[1])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("\n")
    assert read(f"jsonl:{tmp_path}/*.jsonl*") == TEXTS


def write_text_files(folder: Path) -> None:
    """Writes text files whose documents are TEXTS, and a file that is not found because its name ends in .md."""
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text(TEXTS[0])
    (folder / "deep" / "b.TXT").write_text(TEXTS[1])
    (folder / "deep" / "c.txt.gz").write_bytes(gzip.compress(TEXTS[2].encode()))
    (folder / "notes.md").write_text("no text")


def test_text_files_are_found_by_pattern_folder_or_name(tmp_path: Path) -> None:
    write_text_files(tmp_path)
    assert read(f"text:{tmp_path}/**/*.[tT]*") == TEXTS
    assert read(f"text:{tmp_path}") == TEXTS
    assert read(f"text:{tmp_path}/a.txt") == TEXTS[:1]


def test_existing_path_is_not_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my [old] *books*, ünïcode?"
    write_text_files(folder)
    write_text_files(tmp_path / "my o")
    name = folder.name
    for where in (folder, f"~/{name}", f"{name}/**/*.[tT]*", f"./{name}/", f"~/{name}/../{name}/**/*.?[xX]?*"):
        assert read(f"text:{where}") == TEXTS, where
    assert read(f"bookcorpus:~/{name}") == TEXTS
    (folder / "a[1].jsonl").write_text(json.dumps({"text": "of this name"}))
    (folder / "a1.jsonl").write_text(json.dumps({"text": "of the pattern"}))
    assert read(f"jsonl:~/{name}/a[1].jsonl") == ["of this name"]
    (folder / "a[1].jsonl").unlink()
    assert read(f"jsonl:~/{name}/a[1].jsonl") == ["of the pattern"]
    write_tf_records(folder / "1.0.0", TEXTS)
    monkeypatch.setenv("TFDS_DATA_DIR", f"~/{name}/..")
    for where in (f"~/{name}", f"~/{name}/1.0.0", f"./{name}", name):
        assert read(f"tfds:{where}") == TEXTS, where
    monkeypatch.setenv("TFDS_DATA_DIR", "~nobody_here/x")
    for source, field in (("tfds:x", "TFDS_DATA_DIR"), ("text:~nobody_here/x", "data.sources")):
        with pytest.raises(UserError, match=f"^{field}: found '~nobody_here/x': "):
            sources.documents(source)


def test_bookcorpus_is_built_again_if_its_directory_changes(tmp_path: Path, data_dir: Path) -> None:
    books = tmp_path / "books"
    books.mkdir()
    (books / "a.txt").write_text(TEXTS[0])
    write_json_lines(books / "b.jsonl.gz", TEXTS[1])
    (books / "notes.md").write_text("no book")
    assert read(f"bookcorpus:{books}") == TEXTS[:2]
    (built,) = data_dir.glob("bookcorpus/*/*/bookcorpus-train.array_record*")
    before = built.stat().st_mtime_ns
    assert read(f"bookcorpus:{books}") == TEXTS[:2]
    assert built.stat().st_mtime_ns == before
    (books / "c.txt.gz").write_bytes(gzip.compress(TEXTS[2].encode()))
    assert read(f"bookcorpus:{books}") == TEXTS
    assert len(list(data_dir.glob("bookcorpus/*"))) == 2


def write_tf_records(folder: Path, texts: list[str], counted: int | None = None, split: str = "train") -> Path:
    """Writes a TFDS dataset of TFRecord files, framed by tensorboardX, whose description claims `counted` records."""
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


def test_tf_records_are_found_by_path_and_by_name(data_dir: Path) -> None:
    write_tf_records(data_dir / "hand" / "config" / "1.9.0", ["an old version"])
    write_tf_records(data_dir / "hand" / "config" / "1.10.0", TEXTS)
    assert read(f"tfds:{data_dir}/hand/config/1.10.0") == TEXTS
    assert read("tfds:hand/config:1.10.0") == TEXTS
    assert read("tfds:hand/config") == TEXTS  # the newest
    assert read("tfds:hand/config:1.9.0") == ["an old version"]


def test_array_records_are_found_by_path(tmp_path: Path, data_dir: Path) -> None:
    many = [f"document {i}" for i in range(150)]
    write_json_lines(tmp_path / "books.jsonl", *many)
    read(f"bookcorpus:{tmp_path}")
    (folder,) = data_dir.glob("bookcorpus/*/*")
    assert read(f"tfds:{folder}") == many


def test_bucket_without_its_library_names_the_package() -> None:
    with pytest.raises(UserError, match=r"s3fs.*, wanted the packages for buckets"):
        read("tfds:s3://bucket/wikipedia")


def test_both_formats_are_read_from_a_bucket(tmp_path: Path, data_dir: Path, bucket: AbstractFileSystem) -> None:
    write_json_lines(tmp_path / "books.jsonl", *TEXTS)
    read(f"bookcorpus:{tmp_path}")
    (arrays,) = data_dir.glob("bookcorpus/*/*")
    write_tf_records(tmp_path / "records" / "1.0.0", TEXTS)
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


@pytest.mark.parametrize(
    "damage, message",
    [
        (cut_record, r"record 2: the file ends within a record"),
        (cut_header, r"record 1: the file is not TFRecord at this position"),
        (flip_length, r"record 0: the file is not TFRecord at this position"),
    ],
)
def test_damaged_tf_record_is_named(damage: Callable[[bytes], bytes], message: str, data_dir: Path) -> None:
    path = write_tf_records(data_dir / "1.0.0", TEXTS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"data.sources: found .*{path.name}, {message}.*, wanted an intact file"):
        read(f"tfds:{data_dir}")


def test_every_changed_byte_of_tf_records_is_noticed(data_dir: Path) -> None:
    path = write_tf_records(data_dir / "1.0.0", TEXTS)
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :])
        with pytest.raises(UserError, match=f"data.sources: found .*{path.name}, record [0-2]: .*, wanted an intact"):
            read(f"tfds:{data_dir}")
    path.write_bytes(gzip.compress(content))
    assert read(f"tfds:{data_dir}") == TEXTS
    path.write_bytes(gzip.compress(content)[:-20])
    with pytest.raises(UserError, match=r"record 2: Compressed file ended before"):
        read(f"tfds:{data_dir}")


def test_damaged_array_record_or_description_is_named(tmp_path: Path, data_dir: Path) -> None:
    write_json_lines(tmp_path / "books.jsonl", *TEXTS)
    read(f"bookcorpus:{tmp_path}")
    (folder,) = data_dir.glob("bookcorpus/*/*")
    (path,) = folder.glob("*array_record*")
    content = path.read_bytes()
    start = next(i for i in range(200, len(content)) if content[i])
    for damaged in (content[: len(content) // 2], content[:start] + b"????" + content[start + 4 :], b"", b"?" * 99):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"data.sources: found .*{path.name}, record 0: .*, wanted an intact file"):
            read(f"tfds:{folder}")
    for name in ("features.json", "dataset_info.json"):
        before = (folder / name).read_bytes()
        for damaged in (b"", b"{", b"[]", b"{}", before[:-30], b"\xff"):
            (folder / name).write_bytes(damaged)
            with pytest.raises(UserError, match=f"data.sources: found .*{folder}"):
                read(f"tfds:{folder}")
        (folder / name).write_bytes(before)


def test_building_a_dataset_holds_few_books_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_so_far = written = most = 0

    class Writer(tfds.core.SequentialWriter):
        def add_examples(self, examples: dict[str, list[dict[str, str]]]) -> None:
            nonlocal written, most
            most = max(most, read_so_far - written)
            written += len(examples["train"])
            super().add_examples(examples)

    def documents(_: Path):
        nonlocal read_so_far
        for number in range(1000):
            read_so_far += 1
            yield f"document {number}"

    monkeypatch.setattr(tfds.core, "SequentialWriter", Writer)
    monkeypatch.setattr(bookcorpus.files, "read_text", documents)
    monkeypatch.setattr(bookcorpus, "_BATCH", 1000)
    (tmp_path / "a.txt").write_text("a book")
    assert read(f"bookcorpus:{tmp_path}") == [f"document {number}" for number in range(1000)]
    assert written == 1000 and 0 < most < 100


def test_missing_record_file_or_split_is_named(data_dir: Path) -> None:
    path = write_tf_records(data_dir / "1.0.0", TEXTS, counted=4)
    with pytest.raises(UserError, match=r"found 3 records in .*tfrecord.*, wanted 4, as its dataset says"):
        read(f"tfds:{data_dir}")
    path.unlink()
    with pytest.raises(UserError, match=r"No such file"):
        read(f"tfds:{data_dir}")
    shutil.rmtree(data_dir)
    write_tf_records(data_dir / "1.0.0", TEXTS, split="test")
    with pytest.raises(UserError, match=r"found splits \['test'\] in .*, wanted a split train"):
        read(f"tfds:{data_dir}")


def test_dataset_without_text_is_refused(data_dir: Path) -> None:
    write_tf_records(data_dir / "1.0.0", TEXTS)
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


def test_python_docs_yield_topics_then_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        ("jsonl:{}/*.jsonl", r"found no file .*/\*.jsonl, wanted a file, a directory or a pattern that"),
        ("text:{}", r"found no such file below .*, wanted files named \*.txt, plain or as .gz"),
        ("text:", r"found '', wanted a path"),
        ("jsonl:gs://bucket/*.jsonl", r"found gs://bucket/\*.jsonl, wanted files on a disk; copy them to a disk"),
        ("bookcorpus:{}", r"found no such file below .*, wanted files named \*.txt or \*.jsonl, plain"),
        ("bookcorpus:{}/none", r"found no directory .*/none, wanted a directory of books"),
        (
            "tfds:{}",
            r"found no prepared dataset in .*, wanted a folder with dataset_info.json; prepare it with TFDS",
        ),
        ("tfds:wikipedia/20230601.en", r"found no prepared dataset in .*/tfds/wikipedia/20230601.en, wanted"),
    ],
)
def test_missing_source_is_an_error_before_iteration(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^data.sources: {message}"):
        sources.documents(source.format(tmp_path))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", b"", r"found no document in jsonl:.*, wanted at least one with text"),
        ("a.jsonl", b'{"text": " "}\n{"text": ""}\n', r"found 2 documents, all blank in jsonl:"),
        (
            "a.jsonl",
            b'{"text": "a"}\n\n{"text": "\\ud800"}\n',
            r"a.jsonl, line 3: surrogates not allowed, wanted Unicode text",
        ),
        (
            "a.jsonl",
            b'{"text": "a"\n',
            r"a.jsonl, line 1: Expecting ',' delimiter.*, wanted one JSON object per line",
        ),
        ("a.txt", b" \n\t", r"found 1 documents, all blank in text:"),
    ],
)
def test_damaged_or_blank_text_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^data.sources: .*{message}"):
        read(f"{'text' if name == 'a.txt' else 'jsonl'}:{tmp_path}/a.*")


def test_damaged_book_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"data.sources: found .*a.txt, line 1: byte 0 is not UTF-8"):
        read(f"bookcorpus:{tmp_path}")
