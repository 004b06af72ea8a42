"""GLUE's published files: unusual characters are kept, and an error names the file and line of damage."""

import dataclasses
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from symbert_jax.errors import UserError
from symbert_jax.eval import examples as examples_module
from symbert_jax.eval.examples import Source
from symbert_jax.eval.tasks import TASKS, find_tasks


def read(folder: Path, name: str, split: str = "validation", labelled: bool = True) -> list[tuple]:
    task = TASKS[name]
    found = next(part for part in (task.train, *task.validation, *task.test) if part.name == split)
    examples = Source(f"tsv:{folder}").read(task, found, labelled=labelled)
    return [(*each.texts, each.label) for each in examples]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" and raw[:2] != b"\x1f\x8b" else raw)
    return folder


def test_tsv_keeps_quotes_and_ignores_byte_order_mark(tmp_path) -> None:
    mrpc = (
        '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\tHe said "yes.\t"No\r\n0\t9\t10\ta\u2028b\x85c\td'
    )
    write(tmp_path, "MRPC/dev.tsv", mrpc)
    assert read(tmp_path, "mrpc") == [('He said "yes.', '"No', 1.0), ("a\u2028b\x85c", "d", 0.0)]


def test_labelled_cola_has_no_header(tmp_path) -> None:
    write(tmp_path, "CoLA/dev.tsv.gz", "gj04\t1\t\tThe sailors rode.\ngj04\t0\t*\tThe rode.\n")
    write(tmp_path, "CoLA/test.tsv", "index\tsentence\n0\tBill whistled.\n")
    assert read(tmp_path, "cola") == [("The sailors rode.", 1.0), ("The rode.", 0.0)]
    assert read(tmp_path, "cola", "test", labelled=False) == [("Bill whistled.", None)]


def test_mrpc_is_read_from_files_of_microsoft(tmp_path) -> None:
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    write(tmp_path, "MRPC/msr_paraphrase_train.txt", "\ufeff" + header + "1\t1\t2\ta\tb\n")
    write(tmp_path, "MRPC/msr_paraphrase_test.txt", "\ufeff" + header + "0\t3\t4\tc\td\n")
    assert read(tmp_path, "mrpc", "train") == [("a", "b", 1.0)]
    assert read(tmp_path, "mrpc") == [("c", "d", 0.0)]
    assert read(tmp_path, "mrpc", "test", labelled=False) == [("c", "d", None)]


def test_labels_of_regression_and_three_classes_are_read(tmp_path) -> None:
    write(tmp_path, "STS-B/dev.tsv", "index\tsentence1\tsentence2\tscore\n0\ta\tb\t3.250\n")
    write(
        tmp_path,
        "MNLI/dev_mismatched.tsv",
        "index\tsentence1\tsentence2\tlabel1\tgold_label\n0\ta\tb\tneutral\tcontradiction\n",
    )
    assert read(tmp_path, "stsb") == [("a", "b", 3.25)]
    assert read(tmp_path, "mnli", "validation_mismatched") == [("a", "b", 2.0)]


def test_diagnostics_are_read_from_second_folder_name(tmp_path) -> None:
    write(tmp_path, "diagnostic/diagnostic.tsv", "index\tsentence1\tsentence2\n0\ta\tb\n")
    assert read(tmp_path, "ax", "test", labelled=False) == [("a", "b", None)]


def test_short_labelled_rows_of_qqp_are_skipped(tmp_path) -> None:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    write(tmp_path, "QQP/dev.tsv", header + "1\t1\t2\ta\tb\t1\n2\t3\t4\tcut by a line break\n5\t5\t6\tc\td\t0\n")
    assert read(tmp_path, "qqp") == [("a", "b", 1.0), ("c", "d", 0.0)]


def test_short_unlabelled_row_of_qqp_is_refused(tmp_path) -> None:
    """The GLUE server identifies a prediction by the number of its row."""
    write(tmp_path, "QQP/test.tsv", "id\tquestion1\tquestion2\n0\ta\tb\n1\tcut by a line break\n")
    with pytest.raises(UserError, match=r"test.tsv, line 3: 2 columns, wanted 3"):
        read(tmp_path, "qqp", "test", labelled=False)


ROWS = "index\tsentence1\tsentence2\tlabel\n0\té\tb\tentailment\n1\tc\td\tnot_entailment\n"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("RTE/dev.tsv", ROWS.encode("utf-16")),  # with a byte order mark, as Windows writes UTF-16
        ("RTE/dev.tsv", b"\xfe\xff" + ROWS.encode("utf-16-be")),
        ("RTE/dev.tsv", ROWS.replace("\n", "\r")),
        ("RTE/dev.tsv", ROWS.replace("\n", "\r\r\n")),
        ("RTE/dev.tsv", ROWS.encode("utf-32")),
        ("RTE/dev.tsv", gzip.compress(b"\xef\xbb\xbf" + ROWS.encode(), mtime=0)),
        ("RTE/dev.tsv", lzma.compress(ROWS.encode("utf-16"))),
        ("RTE/dev.tsv", "label\tsentence2\tsentence1\nentailment\tb\té\n\nnot_entailment\td\tc"),
        ("rte/Dev.TSV", ROWS),
        ("Rte/dev.TSV.GZ", gzip.compress(ROWS.encode(), mtime=0)),
    ],
)
def test_tsv_is_read_in_every_encoding_compression_and_spelling(tmp_path, path, content) -> None:
    write(tmp_path, path, content)
    assert read(tmp_path, "rte") == [("é", "b", 0.0), ("c", "d", 1.0)]
    if path == "RTE/dev.tsv":
        (tmp_path / path).rename(tmp_path / "RTE/dev.tsv.gz")  # the content decides on compression, not the suffix
        (tmp_path / "rte").mkdir()  # empty: the folder with the exact name is preferred
        assert read(tmp_path, "rte") == [("é", "b", 0.0), ("c", "d", 1.0)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "RTE",
            "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta\tmaybe\n",
            "line 3: 3 columns, wanted 4 columns: index",
        ),
        (
            "RTE",
            "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tmaybe\n",
            "line 2: label 'maybe', wanted one of entailment, not",
        ),
        (
            "RTE",
            "index\tsentence1\tlabel\n0\ta\tentailment\n",
            "line 1: columns index, sentence1, label, wanted a header line with sentence2",
        ),
        ("RTE", "", "line 1: columns none"),
        ("RTE", "index\tsentence1\tsentence2\tlabel\n", "no example of rte validation"),
        ("STS-B", "sentence1\tsentence2\tscore\na\tb\thigh\n", "line 2: score 'high', wanted a number"),
        ("STS-B", "sentence1\tsentence2\tscore\na\tb\tnan\n", "line 2: score 'nan', wanted a number"),
        (
            "STS-B",
            b"sentence1\tsentence2\tscore\na\tb\t1\n\xff\tb\t1\n",
            "line 3: byte 32 is not UTF-8, wanted a TSV",
        ),
        ("CoLA", "gj04\t2\t\tThe sailors rode.\n", "line 1: label '2', wanted one of 0, 1"),
        ("RTE", "0\ta\tb\tentailment\n", "a header line with sentence1, sentence2, label; it names the columns"),
        (
            "RTE",
            ROWS.encode("latin-1"),
            ".zst; convert another encoding: iconv",
        ),
        ("RTE", ROWS.encode("utf-16-le"), "which is binary, or UTF-16 without a byte order mark, wanted a TSV file"),
        ("RTE", ROWS.encode()[:-5] + bytes(5), "line 3: a zero byte, wanted text"),
        ("RTE", gzip.compress(ROWS.encode(), mtime=0)[:-9], "Compressed file ended before the end-of-stream marker"),
        (
            "RTE",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "which is a Git LFS pointer instead",
        ),
        ("RTE", " <!DOCTYPE html><html></html>", "which is an HTML page, wanted a TSV file"),
        ("RTE", "<?xml version='1.0'?><Error><Code>AccessDenied", "which is an XML file, wanted a TSV file"),
        ("RTE", b"PK\x03\x04\x14", "which is a zip archive"),
        ("RTE", None, "Is a directory"),
        ("RTE", "x" * 10**7 + "\n", f"line 1: columns {'x' * 100}…, wanted a header line with"),
        ("STS-B", f"sentence1\tsentence2\tscore\na\tb\t{'9' * 10**6}x\n", f"score '{'9' * 100}…', wanted a number"),
    ],
)
def test_damage_is_reported_with_file_and_line(tmp_path, name, content, message) -> None:
    if content is None:
        (tmp_path / name / "dev.tsv").mkdir(parents=True)
    else:
        write(tmp_path, f"{name}/dev.tsv", content)
    task = next(task.name for task in TASKS.values() if task.folders[0] == name)
    with pytest.raises(UserError) as error:
        read(tmp_path, task)
    assert message in str(error.value) and ("dev.tsv" in str(error.value) or "no example" in message)


def test_missing_source_is_reported(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    for source, message in (
        (f"{tmp_path}", f"found '{tmp_path}', wanted tsv:DIR or tfds:DIR"),
        ("tsv:", "found 'tsv:', wanted tsv:DIR or tfds:DIR"),
        ("tsv:~/none", f"no folder {tmp_path}/none"),
        ("tsv:~nobody_here/none", "found '~nobody_here/none'"),
        ("tsv:~/file", f"no folder {tmp_path}/file"),
        ("", "found '', wanted tsv:DIR or tfds:DIR"),
        ("csv:x", "found 'csv:x', wanted tsv:DIR or tfds:DIR"),
        (f"tsv:{tmp_path}/none", "no folder"),
        (
            f"tsv:{tmp_path}",
            r"no validation split of rte in .*, wanted RTE/dev.tsv\[.gz\]; or leave the task out of tasks",
        ),
        (f"tfds:{tmp_path}", "no dataset rte in"),
    ):
        with pytest.raises(UserError, match=message):
            Source(source).read(TASKS["rte"], TASKS["rte"].validation[0], labelled=True)


class Rte(tfds.core.GeneratorBasedBuilder):
    """A small dataset like glue/rte of TFDS; the split `torn` lacks the row with idx 0."""

    VERSION = tfds.core.Version("2.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "sentence1": tfds.features.Text(),
            "sentence2": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["entailment", "not_entailment"]),
            "idx": np.int32,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {
            "train": self._generate_examples([1, 0]),
            "test": self._generate_examples([-1] * 20),
            "torn": self._generate_examples([None, -1]),
        }

    def _generate_examples(self, labels):
        for i, label in enumerate(labels):
            if label is not None:
                yield i, {"sentence1": f"é {i}", "sentence2": "b", "label": label, "idx": i}


def test_tfds_array_record_is_read_or_refused(tmp_path, monkeypatch) -> None:
    builder = Rte(data_dir=tmp_path / "glue", file_format="array_record")
    builder.download_and_prepare()
    task = TASKS["rte"]
    for folder in (tmp_path, tmp_path / "glue"):  # TFDS's data directory, or the folder of the tasks
        source = Source(f"tfds:{folder}")
        assert sorted(source.read(task, task.train, labelled=True)) == [(("é 0", "b"), 1.0), (("é 1", "b"), 0.0)]
        # in the order of idx, not as TFDS stores them
        assert source.read(task, task.test[0], labelled=False) == [((f"é {i}", "b"), None) for i in range(20)]
        with pytest.raises(UserError, match="1 rows, none of them with idx 0, wanted every idx from 0 to 0"):
            source.read(task, dataclasses.replace(task.test[0], name="torn"), labelled=False)
        with pytest.raises(UserError, match="label -1, wanted 0 to 1"):
            source.read(task, task.test[0], labelled=True)
        with pytest.raises(UserError, match="wanted a split validation"):
            source.read(task, task.validation[0], labelled=True)
    for row, message in (
        ({"sentence1": 1, "sentence2": "b", "label": 0}, "train 0: sentence1 1, wanted text"),
        ({"sentence1": "a", "sentence2": "b", "label": "x"}, "train 0: label x, wanted 0 to 1"),
    ):
        with monkeypatch.context() as patch, pytest.raises(UserError, match=message):
            patch.setattr(examples_module, "_read_rows", lambda *_, row=row: [row])
            source.read(task, task.train, labelled=True)
    for name, content in (
        ("rte-train.array_record-00000-of-00001", b""),
        ("features.json", b'{"pythonClassName": "x"}'),
        ("dataset_info.json", b"\xff"),
    ):
        (tmp_path / "glue/rte/2.0.0" / name).write_bytes(content)
        with pytest.raises(UserError, match="wanted an intact dataset of GLUE; prepare it again"):
            source.read(task, task.train, labelled=True)


def test_find_tasks_accepts_spellings_and_orders_as_the_table() -> None:
    assert [task.name for task in find_tasks(["RTE", "SST-2", "sts_b", "rte"])] == ["sst2", "stsb", "rte"]


@pytest.mark.parametrize(
    ("names", "message"),
    [(["rta"], "did you mean 'rte'"), ([], "found none"), (["ax"], "ax without mnli")],
)
def test_find_tasks_refuses_invalid_names(names, message) -> None:
    with pytest.raises(UserError, match=message):
        find_tasks(names)
