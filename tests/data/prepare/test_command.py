"""`prepare`: documents can be recovered from the rows, its counts are right, and each mistake is one error."""

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbert_jax.config import Config, DataConfig, ModelConfig
from symbert_jax.data import rows
from symbert_jax.data.manifest import MANIFEST, SPLITS, is_finished, read_manifest
from symbert_jax.data.prepare import buckets, encoding, local, page, row_files, runs
from symbert_jax.data.prepare.command import prepare
from symbert_jax.data.vocabulary import SPECIAL, VOCAB
from symbert_jax.errors import UserError
from symbert_jax.storage import sha256
from tests.command_line import ROOT, run_commands
from tests.data.texts import LENGTH, SEP, VOCABULARY, distinct_texts, expected_stream, make_config, read_stream

TEXTS = st.lists(
    st.text("abc [SEP]\n\x00é", max_size=40) | st.sampled_from(["[SEP]", "[CLS] a", "\x01", "abab" * 30]),
    max_size=20,
)


@settings(max_examples=25, deadline=None)
@given(texts=TEXTS, batch=st.integers(1, 200), piece=st.integers(1, 20), size=st.integers(10, 1000))
def test_rows_hold_all_documents_in_the_order_of_their_keys(texts, batch, piece, size) -> None:
    """The sizes of batches, pieces, runs, buckets and files change nothing, even if a row spans several buckets."""
    texts = [*texts, "a " * LENGTH]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_BATCH", batch)
        patch.setattr(encoding, "_PIECE", piece)
        patch.setattr(runs, "_RUN_BYTES", size)
        patch.setattr(local, "_BUCKET_BYTES", size)
        patch.setattr(rows, "_FILE_BYTES", size)
        patch.setattr(row_files, "_ROWS_AT_ONCE", piece)
        patch.setattr(page, "format_page", lambda *_: "")  # takes longer than all else
        folder = Path(name)
        prepare(make_config(folder, texts))
        wanted, found = expected_stream(folder, texts), read_stream(folder, "train")
        assert found == wanted[: len(found)]
        assert len(wanted) - len(found) < LENGTH - 2
        counts = manifest(folder)["splits"]["train"]
        assert counts["tail_tokens_dropped"] == len(wanted) - len(found)
        assert counts["documents"] == wanted.count(SEP)
        assert counts["tokens"] == len(wanted) - wanted.count(SEP)
        assert counts["rows"] * (LENGTH - 2) == len(found)


def read_documents(folder: Path, split: str) -> list[tuple[int, ...]]:
    tokens = read_stream(folder, split)
    ends = [i for i, token in enumerate(tokens) if token == SEP]
    return [tuple(tokens[start:end]) for start, end in zip([0, *(end + 1 for end in ends)], ends, strict=False)]


def test_split_of_a_document_depends_on_its_text_alone(tmp_path: Path) -> None:
    texts = distinct_texts(400)
    splits = []
    for name, order in ("forward", texts), ("backward", texts[::-1]):
        folder = tmp_path / name
        folder.mkdir()
        prepare(make_config(folder, order, fraction=0.25))
        splits.append({split: read_documents(folder, split) for split in SPLITS})
    forward, backward = splits
    assert 60 < len(forward["validation"]) < 140
    assert not set(forward["validation"]) & set(forward["train"])
    lost = 400 - len(forward["validation"]) - len(forward["train"])
    assert lost <= 2  # the last document of each split may not fill a row
    assert len(set(forward["validation"]) ^ set(backward["validation"])) <= 2


def manifest(folder: Path) -> dict[str, Any]:
    """Returns the JSON object in the manifest of `folder`/corpus."""
    return read_manifest(folder / "corpus").content


def test_manifest_records_recipe_counts_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The 35 tokens and 4 [SEP] of the distinct documents fill 6 rows of T - 2 = 6, and 3 are left."""
    config = make_config(tmp_path, ["a b", "a b", "c"], ["c x", "b " * 30, "\x01"])
    prepare(config)
    content = manifest(tmp_path)
    first, second = config.data.sources
    assert content["sources"] == [first, second]
    assert content["documents"] == {first: 2, second: 2}
    assert content["duplicates"] == {first: 1, second: 0}
    train = {"documents": 4, "rows": 6, "tokens": 35, "tail_tokens_dropped": 3, "padding_share": 0.0}
    unknown_and_maskable = {"unk_tokens": 1, "unk_share": 0.0286, "most_maskable": 6, "fewest_maskable": 4}
    assert content["splits"]["train"] == train | unknown_and_maskable
    assert content["splits"]["validation"]["rows"] == 0
    assert content["length"] == LENGTH
    assert content["files"][VOCAB]["sha256"] == sha256(tmp_path / "corpus" / VOCAB)
    assert set(content["versions"]) == {"symbert_jax", "tokenizers", "tensorflow-datasets"}
    assert content["document_tokens"] == {"5%": 1, "25%": 1, "50%": 2, "75%": 2, "95%": 30, "longest": 30}
    assert list(content["frequent_tokens"].items()) == [("b", 31), ("c", 2), ("[UNK]", 1), ("a", 1)]
    html = (tmp_path / "corpus" / "corpus.html").read_text()
    assert html.count("<figure>") == 2 and "<td>b</td><td>31</td><td>88.57%</td>" in html
    assert not re.search(r"""(src|href)=["'](?!#)""", html), "the page loads a file"
    out, err = capsys.readouterr()
    assert (
        "tokens in a document: 5% 1, 25% 1, 50% 2, 75% 2, 95% 30, longest 30\nmost frequent tokens: b c [UNK] a\n"
        in out
    )
    assert "6 rows of 8 tokens to train and 0 to validate from 4 documents, 1 duplicates dropped, 2.86% of the" in out
    assert not err
    assert sorted(path.name for path in tmp_path.glob("corpus*")) == ["corpus"]
    names = ["corpus-train.array_record-00000", "corpus.html", "dataset_info.json", "features.json", "vocab.txt"]
    files = {path.name: path for path in (tmp_path / "corpus").iterdir() if path.name != MANIFEST}
    assert sorted(files) == names
    assert content["files"] == {
        name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in files.items()
    }


def test_prepare_warns_of_many_unknown_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(make_config(tmp_path, ["a b c 中文 中文 x", "x y z " * 10]))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "warning: data.vocab: found 92.1% of the tokens of a split are [UNK], wanted at most 5%; pre"
    )
    assert manifest(tmp_path)["splits"]["train"]["unk_share"] == 0.9211


def test_rows_are_divided_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_FILE_BYTES", 1000)
    texts = distinct_texts(200)
    prepare(make_config(tmp_path, texts))
    assert len(list(tmp_path.glob("corpus/*array_record*"))) == 6  # of 62 rows of 16 bytes, the last of fewer
    found = read_stream(tmp_path, "train")
    assert found == expected_stream(tmp_path, texts)[: len(found)]


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a corpus ten times as large, no more documents are in memory at once."""
    held = list[int]()
    write_run, sort = runs._write_run, buckets.sort_and_deduplicate

    def write(texts, *arguments):
        held.append(len(texts))
        write_run(texts, *arguments)

    def sort_and_deduplicate(copies, num_sources):
        held.append(len(copies.texts))
        return sort(copies, num_sources)

    monkeypatch.setattr(runs, "_RUN_BYTES", 400)
    monkeypatch.setattr(local, "_BUCKET_BYTES", 400)
    monkeypatch.setattr(runs, "_write_run", write)
    monkeypatch.setattr(buckets, "sort_and_deduplicate", sort_and_deduplicate)
    for count in (100, 1000):
        folder = tmp_path / str(count)
        folder.mkdir()
        prepare(make_config(folder, distinct_texts(count)))
        assert manifest(folder)["splits"]["train"]["documents"] == count
        assert 10 < max(held) < 30
        held.clear()


def test_prepare_trains_a_vocabulary(tmp_path: Path) -> None:
    config = make_config(tmp_path, distinct_texts(30))
    data = DataConfig(dir=config.data.dir, sources=config.data.sources, vocab="train", validation_fraction=0.0)
    prepare(Config(model=ModelConfig(length=LENGTH, vocab_size=64), data=data))
    tokens = (tmp_path / "corpus" / VOCAB).read_text().split()
    assert tokens[:5] == list(SPECIAL)
    assert "[UNK]" not in [tokens[token] for token in read_stream(tmp_path, "train")]


def test_progress_without_a_terminal_is_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "_PROGRESS_SECONDS", 0)
    prepare(make_config(tmp_path, distinct_texts(30)))
    assert " documents, " in capsys.readouterr().out


def test_prepare_keeps_a_finished_corpus_and_refuses_another_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path, distinct_texts(30))
    prepare(config)
    before = (tmp_path / "corpus" / MANIFEST).stat().st_mtime_ns
    capsys.readouterr()
    prepare(config)
    assert capsys.readouterr().out == f"{tmp_path}/corpus is already prepared\n"
    for change, message in (
        ({"length": 16}, r"model.length: found 16 for .*corpus, .*, wanted 8; remove"),
        ({"fraction": 0.5}, r"data.validation_fraction: found 0.5 for .*, wanted 0.0"),
        ({"sources": ("python-docs",)}, r"data.sources: found \['python-docs'\] for .*, wanted \['jsonl:"),
        ({"vocab": "train"}, r"data.vocab: found train 13 for .*, wanted sha256 "),
    ):
        data = DataConfig(
            dir=config.data.dir,
            sources=change.get("sources", config.data.sources),
            vocab=change.get("vocab", config.data.vocab),
            validation_fraction=change.get("fraction", 0.0),
        )
        model = ModelConfig(length=change.get("length", LENGTH), vocab_size=config.model.vocab_size)
        with pytest.raises(UserError, match=message):
            prepare(Config(model=model, data=data))
    assert (tmp_path / "corpus" / MANIFEST).stat().st_mtime_ns == before


def test_prepare_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"data.dir: found .*corpus, which is not a corpus"):
        prepare(make_config(tmp_path, distinct_texts(30)))
    assert (tmp_path / "corpus" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("texts", "fraction", "message"),
    [
        ([], 0.0, r"data.sources: found no document, or only blank ones, in jsonl:"),
        (["\x01"], 0.0, r"data.sources: found 0 tokens of training text, wanted enough for a row of model.length=8"),
        (["a b c"], 0.0, r"data.sources: found 3 tokens of training text, wanted enough"),
        (
            distinct_texts(30),
            1e-9,
            r"data.validation_fraction: found 1e-09, which chose 0 of 30 documents, wanted enough",
        ),
    ],
)
def test_prepare_refuses_too_little_text(texts: list[str], fraction: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        prepare(make_config(tmp_path, texts, fraction=fraction))
    assert not (tmp_path / "corpus").exists()


def test_enormous_word_is_cut_into_pieces() -> None:
    """50 MB without white space, as in a damaged file, take neither the library's time nor its memory."""
    text = f"a {'x' * 50_000_000} b\nc"
    pieces = list(encoding.split_text(text))
    assert "".join(pieces) == text and max(map(len, pieces)) <= 1 << 16


def test_prepare_refuses_a_bucket_and_no_sources(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.dir: found gs://bucket/corpus, wanted a local folder; let a cluster"):
        prepare(Config(data=DataConfig(dir="gs://bucket/corpus")))
    with pytest.raises(UserError, match=r"data.sources: found none, wanted at least one"):
        prepare(make_config(tmp_path))


def test_missing_source_fails_before_the_first_is_read(tmp_path: Path) -> None:
    config = make_config(tmp_path, ["damaged"])
    (tmp_path / "0.jsonl").write_text("damaged")
    names = (*config.data.sources, f"text:{tmp_path}/*.none")
    data = DataConfig(dir=config.data.dir, sources=names, vocab=config.data.vocab)
    with pytest.raises(UserError, match=r"data.sources: found no file .*\.none"):
        prepare(Config(model=config.model, data=data))


def test_command_refuses_unusable_paths_and_accepts_unusual_ones(tmp_path: Path) -> None:
    make_config(tmp_path, distinct_texts(30))
    (tmp_path / "0.jsonl").rename(tmp_path / "a, [b].jsonl")
    (tmp_path / "file").touch()
    (tmp_path / "ünïcode [x]").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "corpus")
    refused = {
        ".": f"data.dir: found {tmp_path}, which is not a corpus, wanted a path where nothing exists yet",
        "/": "data.dir: found /, which is not a corpus, wanted a path where nothing exists yet",
        "": "data.dir: found '', wanted a path",
        "file": f"data.dir: found {tmp_path}/file, which is not a corpus",
        "file/x": f"data.dir: found {tmp_path}/file/x.incomplete: Not a directory, wanted a folder that can be written",
        "/proc/x": "data.dir: found /proc/x.incomplete: No such file or directory, wanted a folder that can be written",
        "~nobody_here/x": "data.dir: found '~nobody_here/x': ",
        "x" * 250: "File name too long",
        "not \udcff UTF-8": f"data.dir: found {tmp_path}/not \\udcff UTF-8, wanted a path in UTF-8",
    }
    accepted = {"~/ünïcode [x]/a": "ünïcode [x]/a", "ünïcode [x]/b": "ünïcode [x]/b", "link": "nowhere/corpus"}
    fields = {"model.length": 8, "model.vocab_size": len(VOCABULARY), "data.validation_fraction": 0}
    flags = [f"--config.{name}={value}" for name, value in (fields | {"data.vocab": "~/vocab.txt"}).items()]
    command = ["prepare", f"--config={ROOT}/configs/tiny.py", *flags]
    command += ["--config.data.sources", '"jsonl:~/a, [b].jsonl"']
    results = run_commands(
        [[*command, f"--config.data.dir={folder}"] for folder in (*refused, *accepted)],
        imports=["jax", "symbert_jax.data.prepare.command"],
        cwd=tmp_path,
        **{"HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"},
    )
    for (folder, message), result in zip(refused.items(), results, strict=False):
        assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, (folder, result)
        assert message in result.stderr and not result.stdout, (folder, result)
    for (folder, path), result in zip(accepted.items(), results[len(refused) :], strict=True):
        assert result.returncode == 0 and not result.stderr, (folder, result)
        assert is_finished(tmp_path / path)
    assert not list(tmp_path.glob("**/*.incomplete")) and not (tmp_path / "~").exists()
