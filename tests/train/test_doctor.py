"""Each thing that ruins a run is found before it starts, all at once, and a good run is left in peace."""

import dataclasses
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import jax
import pytest
from etils import epath

from symbert_jax.checkpoint import Checkpoints
from symbert_jax.config import Config, MeshConfig, TrainConfig
from symbert_jax.data.rows import read_manifest, write_manifest
from symbert_jax.errors import UserErrors
from symbert_jax.model import bert
from symbert_jax.sharding import make_mesh
from symbert_jax.train import doctor
from symbert_jax.train import state as states
from tests.conftest import TINY, WORDS, write_corpus
from tests.storage import Storage

ROOT = Path(__file__).parents[2]


def changed(config: Config, **changes: Any) -> Config:
    """`configure` without its check."""
    return dataclasses.replace(
        config,
        **{
            name: dataclasses.replace(getattr(config, name), **change) if isinstance(change, dict) else change
            for name, change in changes.items()
        },
    )


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A config in which nothing is wrong, with its corpus of 64 rows."""
    return changed(TINY, data={"dir": str(write_corpus(tmp_path_factory.mktemp("data") / "good"))})


@pytest.fixture(scope="module")
def begun(good: Config, tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    """The workdir of a run that has come to step 7."""
    workdir = epath.Path(tmp_path_factory.mktemp("begun"))
    shutil.copy(Path(good.data.dir) / "vocab.txt", workdir)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        state, checkpoints = states.init(good), Checkpoints(workdir, TrainConfig())
        checkpoints.save(7, state.params, state.optimizer, good, None)
        checkpoints.close()
    return workdir


def found(config: Config, workdir: epath.PathLike) -> list[str]:
    return [str(finding) for finding in doctor.problems(config, epath.Path(workdir))]


def test_weights_and_biases_is_looked_for_where_it_is_asked_for(good: Config, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (finding,) = found(changed(good, train={"wandb": "mine"}), tmp_path / "new")
    assert finding.startswith("train.wandb: found 'mine', wanted the package wandb; pip install wandb")


def test_nothing_is_found_and_nothing_left_behind(good: Config, begun: epath.Path, tmp_path: Path, capsys) -> None:
    assert found(good, tmp_path / "new") == []
    assert not list(tmp_path.iterdir())
    before = sorted(Path(begun).rglob("*"))
    doctor.check(good, begun)
    assert sorted(Path(begun).rglob("*")) == before
    assert capsys.readouterr() == ("", "")


HUGE = {"layers": 64, "dim": 2**17, "mlp_dim": 2**19}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"vocab_size": 96}}, "model.vocab_size: found 96, wanted at least 100, the words of .*vocab.txt"),
        ({"model": {"length": 32}}, "model.length: found 32, wanted 16, the length of the rows in .*prepare"),
        ({"data": {"dir": "nowhere"}}, "data.dir: found no finished corpus in .*/nowhere, .*prepare"),
        ({"data": {"batch_size": 72}}, "data.batch_size: found 72, wanted at most 64, the rows of the corpus"),
        ({"data": {"batch_size": 12}}, "data.batch_size: found 12, wanted a multiple of 8; 8 devices share"),
        ({"model": {"dim": 36}, "mesh": {"fsdp": True}}, "model.dim: found 36, wanted a multiple of the 8 devices"),
        ({"mesh": {"data": 4}}, "mesh: found mesh.data=4 x mesh.model=1, wanted a product of 8"),
        ({"optim": {"warmup_steps": 100}}, "optim.warmup_steps: found 100, wanted fewer than train.steps=100"),
        ({"optim": {"learning_rate": float("nan")}}, "optim.learning_rate: found nan, wanted a finite number"),
        ({"optim": {"learning_rate": 0.5}}, "optim.learning_rate: found 0.5, wanted one from 1e-06 to 0.01"),
        ({"optim": {"learning_rate": 0.0}}, "optim.learning_rate: found 0.0, wanted one from 1e-06 to 0.01"),
        ({"train": {"steps": 164}}, "train.steps: found 164, 41 epochs, wanted at most 40 epochs"),
        (
            {"model": HUGE},
            r"workdir: found .* MB free for .*, wanted 1 x 158,537,379.0 MB for checkpoints; take another disk",
        ),
        ({"init_from": "nowhere"}, "checkpoint: found no .*nowhere/checkpoints, wanted the workdir of a pretrain run"),
    ],
)
def test_what_is_wrong_is_the_one_thing_found(good: Config, changes: dict, message: str, tmp_path: Path) -> None:
    (finding,) = found(changed(good, **changes), tmp_path)
    assert re.match(message, finding) and "\n" not in finding


def test_a_corpus_made_with_another_vocabulary_than_the_config_names(good: Config, tmp_path: Path) -> None:
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join([*WORDS[:-1], "other"]))
    config = changed(good, data={"vocab": str(vocab)})
    (finding,) = found(config, tmp_path)
    assert finding.startswith(f"data.vocab: found {vocab} with other words, wanted those of {good.data.dir}")
    vocab.write_text("\n".join(WORDS))
    assert not found(config, tmp_path)


def test_changed_rows_are_found_by_the_command(good: Config, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    file, config = folder / "corpus-validation.array_record-00000", changed(good, data={"dir": str(folder)})
    file.write_bytes(file.read_bytes()[:-1] + b"?")  # of the same size, where no row is
    assert not found(config, tmp_path / "run")
    with pytest.raises(UserErrors, match=f"data.dir: found {file}, changed, wanted the checksum in manifest.json; rem"):
        doctor.check(config, epath.Path(tmp_path / "run"), thorough=True)


@pytest.mark.parametrize(
    ("unknown", "maskable", "message"),
    [
        (0.04, 16, None),
        (0.06, 16, "data.vocab: found 6.0% of the tokens of a split are [UNK], wanted at most 5%; prepare the text"),
        (
            0.04,
            3,
            "data.dir: found at most 3 tokens of a train row of {} that are not [UNK], wanted enough to mask one",
        ),
    ],
)
def test_corpus_of_unknown_words(
    good: Config, unknown: float, maskable: int, message: str | None, tmp_path: Path
) -> None:
    folder = write_corpus(tmp_path / "corpus")
    content = read_manifest(folder).content
    content["splits"]["train"] |= {"unk_share": unknown, "most_maskable": maskable}
    write_manifest(folder, content)
    findings = found(changed(good, data={"dir": str(folder)}), tmp_path / "run")
    assert len(findings) == (message is not None)
    assert all(finding.startswith(message.format(folder)) for finding in findings)


@pytest.mark.parametrize(
    ("made", "named", "wrong"),
    [
        ("hf:one/cased", "hf:other/cased", True),
        ("hf:one/cased", "hf:one/cased", False),
        ("sha256 123", "hf:other/cased", False),  # a file may have the words of any repository
        ("hf:one/cased", "train", False),
    ],
)
def test_a_corpus_made_with_the_vocabulary_of_another_repository(
    good: Config, made: str, named: str, wrong: bool, tmp_path: Path
) -> None:
    folder = write_corpus(tmp_path / "corpus")
    write_manifest(folder, read_manifest(folder).content | {"vocab": made})
    said = found(changed(good, data={"dir": str(folder), "vocab": named}), tmp_path / "run")
    start = f"data.vocab: found {named}, wanted {made}, the vocabulary of {folder}; name the vocabulary that"
    assert len(said) == wrong and all(finding.startswith(start) for finding in said)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed: found 1, wanted 0, with which .* came to step 7"),
        ({"data": {"mask_rate": 0.3}}, "data.mask_rate: found 0.3, wanted 0.15, with which"),
        ({"optim": {"name": "lamb"}}, "optim.name: found lamb, wanted adamw, with which"),
        ({"init_from": "elsewhere"}, "init_from: found elsewhere, wanted none, with which"),
        ({"model": {"layers": 4}}, r".*checkpoints/7/params: found layers.* of shape \[2, .*wanted .* of shape \[4, "),
    ],
)
def test_a_checkpoint_of_another_run(good: Config, begun: epath.Path, changes: dict, message: str) -> None:
    (finding,) = found(changed(good, **changes), begun)
    assert re.match(message, finding)


def test_a_checkpoint_of_other_words(begun: epath.Path, tmp_path: Path) -> None:
    words = [*WORDS[:-1], "other"]
    config = changed(TINY, data={"dir": str(write_corpus(tmp_path / "other", words=words))})
    (finding,) = found(config, begun)
    assert finding.startswith(f"data.dir: found another vocabulary in {config.data.dir}, wanted that of {begun}")


def test_a_workdir_that_cannot_be_written(good: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (finding,) = found(good, tmp_path / "file" / "run")
    wanted = "a folder that can be written; mend its permissions or name another --workdir"
    assert finding == f"workdir: found {tmp_path}/file: Not a directory, wanted {wanted}"


def test_an_odd_workdir_is_one_finding(good: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "checkpoints").symlink_to("nowhere")
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "checkpoints").write_text("")
    for name, message in (
        ("file", "/file: Not a directory, wanted a folder that can be written"),
        ("link", "/link/checkpoints: No such file or directory, wanted a folder"),
        ("blocked", "/blocked/checkpoints: Not a directory, wanted a folder"),
        ("x" * 300, "x: File name too long, wanted a folder"),
        ("[x]", r"/\[x\], with \[ in it, wanted a path that checkpoints can be read back from"),
        ("a\\b", r", with \\ in it, wanted a path that"),
    ):
        (finding,) = found(good, tmp_path / name)
        assert re.match(f"workdir: found {tmp_path}.*{message}", finding), finding


def test_the_packages_for_buckets_are_named_where_they_are_missing(good: Config, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    (finding,) = found(good, epath.Path("gs://bucket/run"))
    wanted = "wanted the packages for buckets; pip install gcsfs google-cloud-storage"
    assert finding.startswith("workdir: found gs://bucket/run: ModuleNotFoundError: ") and finding.endswith(wanted)


def test_a_bucket_that_is_not_googles(good: Config) -> None:
    (finding,) = found(good, epath.Path("s3://bucket/run"))
    assert finding == "workdir: found s3://bucket/run, wanted a folder of a disk or gs://BUCKET/FOLDER"


def test_a_bucket_is_looked_for_before_anything_is_written(
    good: Config, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in storage.environment.items():
        monkeypatch.setenv(name, value)
    result = call("doctor", good, "gs://bukcet/run", "--config.model.length=16")
    assert result.returncode == 2 and not result.stdout
    line = "error: workdir: found gs://bukcet/run: NotFound: 404 .*The specified bucket does not exist.*; check its.*"
    assert re.fullmatch(line, result.stderr.strip())
    result = call("doctor", good, "gs://bucket/run", "--config.model.length=16")
    assert (result.returncode, result.stdout, result.stderr) == (0, "nothing found that would stop this run\n", "")
    assert storage.generation and not storage.objects, "a probe was written, and is gone"


@pytest.mark.parametrize(("slices", "wanted"), [("", 3), ("2", 6)])
def test_hosts_that_have_not_joined(good: Config, slices: str, wanted: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b,c")
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", slices)
    assert not found(good, tmp_path), "elsewhere than on a TPU it says nothing"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    (finding,) = found(good, tmp_path)
    assert finding.startswith(f"hosts: found 1, wanted {wanted}, as TPU_WORKER_HOSTNAMES says")


@pytest.mark.parametrize(
    ("train", "count"),
    [
        ({"steps": 2000, "keep_latest": 3}, 5),  # the best, and one that is written while the others are still there
        ({"steps": 2000, "keep_latest": 3, "keep_every": 500}, 9),
        ({"steps": 150, "checkpoint_every": 100, "validate_every": 100}, 2),  # no more than there will be
    ],
)
def test_the_disk_holds_what_the_config_keeps(
    good: Config, begun: epath.Path, train: dict, count: int, tmp_path: Path, monkeypatch
) -> None:
    config = changed(good, train=train | {"checkpoint_every": 100, "validate_every": 100})
    need = count * (3 * 4 * bert.size(config.model) + 8)  # parameters, two moments, step and Adam's count
    free = {"bytes": need}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free["bytes"]))
    assert not any("MB free" in finding for finding in found(config, tmp_path))
    free["bytes"] -= 1
    assert any(f"wanted {count} x 0.3 MB" in finding for finding in found(config, tmp_path))
    assert not any("MB free" in finding for finding in found(config, begun)), "the old ones make room for the new"


def test_every_field_may_be_wrong_by_itself(good: Config, tmp_path: Path) -> None:
    """Every wrong number is a finding, and none is an exception."""
    tried = 0
    for section in ("model", "data", "optim", "train", "mesh"):
        for name, kind in typing.get_type_hints(type(getattr(good, section))).items():
            for value in {int: (-2, 0), float: (-1.0, float("nan"))}.get(kind, ()):
                tried += 1
                findings = found(changed(good, **{section: {name: value}}), tmp_path)
                fine = value == 0 and name in ("unroll", "warmup_steps", "validate_batches", "keep_every")
                assert bool(findings) != fine, (section, name, value)
    assert tried > 50


def test_all_errors_at_once_and_advice_aside(good: Config, tmp_path: Path, capsys) -> None:
    config = changed(good, optim={"warmup_steps": 1000, "learning_rate": 0.5}, mesh={"data": 3}, seed=-1)
    with pytest.raises(UserErrors) as error:
        doctor.check(config, epath.Path(tmp_path))
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == ["seed", "optim.warmup_steps", "mesh"]
    assert capsys.readouterr().err.startswith("warning: optim.learning_rate: found 0.5")


def call(command: str, good: Config, workdir: Path | str, *flags: str) -> subprocess.CompletedProcess:
    flags = ("--config.train.steps=30", f"--config.data.dir={good.data.dir}", f"--workdir={workdir}", *flags)
    return subprocess.run(
        [sys.executable, "-m", "symbert_jax", command, "--config=configs/tiny.py", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_run_begins_with_it(good: Config, tmp_path: Path) -> None:
    workdir = tmp_path / "[x]"
    result = call("pretrain", good, workdir, "--config.model.length=8", "--config.mesh.data=3")
    assert result.returncode == 2 and not result.stdout
    first, second, third = result.stderr.splitlines()
    assert first.startswith("error: mesh: found mesh.data=3")
    assert second.startswith("error: model.length: found 8, wanted 16")
    assert third.startswith(
        f"error: workdir: found {workdir}, with [ in it, wanted a path that checkpoints can be read"
    )
    assert not list(tmp_path.iterdir())


def test_a_run_says_that_its_latest_checkpoint_is_damaged_and_nothing_else(
    good: Config, begun: epath.Path, tmp_path: Path
) -> None:
    workdir = Path(shutil.copytree(begun, tmp_path / "run"))
    shutil.copytree(workdir / "checkpoints" / "7", workdir / "checkpoints" / "9")
    shutil.rmtree(workdir / "checkpoints" / "9" / "optimizer")
    result = call("pretrain", good, workdir, "--config.model.length=16")
    assert result.returncode == 2 and not result.stdout
    step = workdir / "checkpoints" / "9"
    hint = f"--step=7 (finetune: --config.checkpoint_steps=7), or move {step} away and run the same command again"
    line = f"{step} damaged: it has no optimizer, wanted a whole checkpoint; the latest whole step is 7: take it with"
    assert result.stderr == f"error: checkpoint: found {line} {hint}\n"


def test_the_command_says_that_nothing_was_found(good: Config, tmp_path: Path) -> None:
    result = call("doctor", good, tmp_path, "--config.model.length=16")
    assert (result.returncode, result.stdout, result.stderr) == (0, "nothing found that would stop this run\n", "")
