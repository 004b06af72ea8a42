"""Each kind of source yields its documents in order; each mistake is one error."""

import gzip
import json
from pathlib import Path

import pytest

from symbert_jax.data import sources
from symbert_jax.errors import UserError
from tests.data.sources.conftest import TEXTS, read, write_json_lines, write_tf_records


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
    """A name with wildcards in it is a pattern only if no path has this name."""
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
        ("bookcorpus:gs://bucket/books", r"found gs://bucket/books, wanted files on a disk; copy them to a disk"),
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
        ("a.jsonl", b"", r"found no document, or only blank ones, in jsonl:.*, wanted at least one with text"),
        ("a.jsonl", b'{"text": " "}\n{"text": ""}\n', r"found no document, or only blank ones, in jsonl:"),
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
        ("a.txt", b" \n\t", r"found no document, or only blank ones, in text:"),
    ],
)
def test_damaged_or_blank_text_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^data.sources: .*{message}"):
        read(f"{'text' if name == 'a.txt' else 'jsonl'}:{tmp_path}/a.*")
