"""Before a run starts, the doctor finds everything that would ruin it, and nothing if the run is good."""

import dataclasses
import re
import shutil
import sys
import typing
from pathlib import Path
from typing import Any

import jax
import pytest
from etils import epath

from symbert_jax.checkpoint import Checkpoints
from symbert_jax.config import Config, MeshConfig, TrainConfig
from symbert_jax.data.corpus import Corpora
from symbert_jax.data.manifest import read_manifest, write_manifest
from symbert_jax.errors import UserErrors
from symbert_jax.model import bert
from symbert_jax.sharding import make_mesh
from symbert_jax.train import doctor
from symbert_jax.train import state as states
from tests.command_line import Result, run_commands
from tests.conftest import TINY, WORDS, write_corpus
from tests.storage import Storage


def changed(config: Config, **changes: Any) -> Config:
    """Returns `config` with changes, like `tests.conftest.configure` but without its check."""
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
def started(good: Config, tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    """The workdir of a run that has reached step 7."""
    workdir = epath.Path(tmp_path_factory.mktemp("started"))
    shutil.copy(Path(good.data.dir) / "vocab.txt", workdir)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        state, checkpoints = states.init(good), Checkpoints(workdir, TrainConfig())
        checkpoints.save(step=7, params=state.params, optimizer=state.optimizer, config=good, validation_loss=None)
        checkpoints.close()
    return workdir


def list_problems(config: Config, workdir: epath.PathLike) -> list[str]:
    return [str(problem) for problem in doctor.problems(config, Corpora(), epath.Path(workdir))]


def check(config: Config, workdir: epath.PathLike, **options: bool) -> None:
    doctor.check(config, Corpora(), epath.Path(workdir), **options)


def test_missing_wandb_is_found_if_the_config_names_a_project(good: Config, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (problem,) = list_problems(changed(good, train={"wandb": "mine"}), tmp_path / "new")
    assert problem.startswith("train.wandb: found 'mine', wanted the package wandb; pip install wandb")


def test_good_run_has_no_problems_and_no_new_files(good: Config, started: epath.Path, tmp_path: Path, capsys) -> None:
    assert list_problems(good, tmp_path / "new") == []
    assert not list(tmp_path.iterdir())
    before = sorted(Path(started).rglob("*"))
    check(good, started)
    assert sorted(Path(started).rglob("*")) == before
    assert capsys.readouterr() == ("", "")


HUGE = {"layers": 64, "dim": 2**17, "mlp_dim": 2**19}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"vocab_size": 96}},
            "model.vocab_size: found 96, wanted at least 100, the number of tokens of the tokenizer in .*",
        ),
        ({"model": {"length": 32}}, "model.length: found 32, wanted 16, the length of the rows in .*prepare"),
        ({"data": {"dir": "nowhere"}}, "data.dir: found no finished corpus in .*/nowhere, .*prepare"),
        ({"data": {"batch_size": 72}}, "data.batch_size: found 72, wanted at most 64, the rows of the corpus"),
        (
            {"data": {"batch_size": 12}},
            "data.batch_size: found 12, wanted a multiple of 8; each of optim.accumulate=1 micro",
        ),
        ({"model": {"dim": 36}, "mesh": {"fsdp": True}}, "model.dim: found 36, wanted a multiple of 8, the size of"),
        ({"mesh": {"data": 4}}, "mesh: found mesh.data=4 x mesh.model=1, wanted a product of 8"),
        ({"optim": {"warmup_steps": 100}}, "optim.warmup_steps: found 100, wanted fewer than train.steps=100"),
        ({"optim": {"learning_rate": float("nan")}}, "optim.learning_rate: found nan, wanted a finite number"),
        ({"optim": {"learning_rate": 0.5}}, "optim.learning_rate: found 0.5, wanted a number from 1e-06 to 0.01"),
        ({"optim": {"learning_rate": 0.0}}, "optim.learning_rate: found 0.0, wanted a number from 1e-06 to 0.01"),
        ({"train": {"steps": 164}}, "train.steps: found 164, 41 epochs, wanted at most 40 epochs"),
        (
            {"model": HUGE},
            r"workdir: found .* MB free for .*, wanted 1 x 158,537,379.0 MB for checkpoints; use another disk",
        ),
        ({"init_from": "nowhere"}, "checkpoint: found no .*nowhere/checkpoints, wanted the workdir of a pretrain run"),
    ],
)
def test_each_problem_is_found_alone(good: Config, changes: dict, message: str, tmp_path: Path) -> None:
    (problem,) = list_problems(changed(good, **changes), tmp_path)
    assert re.match(message, problem) and "\n" not in problem


def test_vocabulary_that_differs_from_that_of_the_corpus_is_found(good: Config, tmp_path: Path) -> None:
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join([*WORDS[:-1], "other"]))
    config = changed(good, data={"vocab": str(vocab)})
    (problem,) = list_problems(config, tmp_path)
    assert problem.startswith(
        f"data.vocab: found {vocab}, a different vocabulary, wanted the vocabulary of {good.data.dir}"
    )
    vocab.write_text("\n".join(WORDS))
    assert not list_problems(config, tmp_path)


def test_thorough_check_finds_changed_file(good: Config, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    file, config = folder / "corpus-validation.array_record-00000", changed(good, data={"dir": str(folder)})
    file.write_bytes(file.read_bytes()[:-1] + b"?")  # same size, outside of the rows
    assert not list_problems(config, tmp_path / "run")
    with pytest.raises(UserErrors, match=f"data.dir: found {file}, changed, wanted the checksum in manifest.json; rem"):
        check(config, tmp_path / "run", thorough=True)


@pytest.mark.parametrize(
    ("unknown", "maskable", "message"),
    [
        (0.04, 16, None),
        (0.06, 16, "data.vocab: found 6.0% of the tokens of a split are [UNK], wanted at most 5%; prepare the text"),
        (
            0.04,
            3,
            "data.dir: found at most 3 tokens in a train row of {} that can be masked, wanted enough maskable tokens",
        ),
    ],
)
def test_corpus_with_unusable_tokens_is_found(
    good: Config, unknown: float, maskable: int, message: str | None, tmp_path: Path
) -> None:
    """The manifest gets `unknown`, the fraction of [UNK], and `maskable`, the most maskable tokens of a row."""
    folder = write_corpus(tmp_path / "corpus")
    content = read_manifest(folder).content
    content["splits"]["train"] |= {"unk_share": unknown, "most_maskable": maskable}
    write_manifest(folder, content)
    problems = list_problems(changed(good, data={"dir": str(folder)}), tmp_path / "run")
    assert len(problems) == (message is not None)
    assert all(problem.startswith(message.format(folder)) for problem in problems)


def test_problems_of_every_phase_are_found(good: Config, tmp_path: Path) -> None:
    """The short rows have another vocabulary; a batch has more rows than their corpus, which is read too often."""
    short = write_corpus(tmp_path / "short", words=[*WORDS[:-1], "other"], length=8, num_rows=20)
    phase = f"90: model.length=8 data.dir={short} data.batch_size=32"
    problems = list_problems(changed(good, train={"phases": (phase, "95: model.length=12")}), tmp_path / "run")
    for problem in (
        f"train.phases: 95: model.length: found 12, wanted 16, the length of the rows in {good.data.dir}",
        f"data.dir: found a different vocabulary in {short}, wanted the vocabulary of {good.data.dir}; prepare all",
        "train.phases: 90: data.batch_size: found 32, wanted at most 20, the rows of the corpus",
        f"train.steps: found 100, 144 epochs of {short}, wanted at most 40 epochs",
    ):
        assert sum(found.startswith(problem) for found in problems) == 1, (problem, problems)
    assert len(problems) == 4, problems
    (problem,) = list_problems(changed(good, train={"phases": ("9: data.batch_size=12",)}), tmp_path / "run")
    assert problem.startswith("train.phases: 9: data.batch_size: found 12, wanted a multiple of 8; each of")


@pytest.mark.parametrize(
    ("made", "named", "wrong"),
    [
        ("hf:one/cased", "hf:other/cased", True),
        ("hf:one/cased", "hf:one/cased", False),
        ("sha256 123", "hf:other/cased", False),  # made with a file, which may hold the vocabulary of any repository
        ("hf:one/cased", "train", False),
    ],
)
def test_corpus_with_the_vocabulary_of_another_repository_is_found(
    good: Config, made: str, named: str, wrong: bool, tmp_path: Path
) -> None:
    folder = write_corpus(tmp_path / "corpus")
    write_manifest(folder, read_manifest(folder).content | {"vocab": made})
    problems = list_problems(changed(good, data={"dir": str(folder), "vocab": named}), tmp_path / "run")
    start = f"data.vocab: found {named}, wanted {made}, the vocabulary of {folder}; name the vocabulary that"
    assert len(problems) == wrong and all(problem.startswith(start) for problem in problems)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed: found 1, wanted 0, with which .* reached step 7"),
        ({"data": {"mask_rate": 0.3}}, "data.mask_rate: found 0.3, wanted 0.15, with which"),
        ({"optim": {"name": "lamb"}}, "optim.name: found lamb, wanted adamw, with which"),
        ({"init_from": "elsewhere"}, "init_from: found elsewhere, wanted none, with which"),
        ({"model": {"layers": 4}}, r".*checkpoints/7/params: found layers.* of shape \[2, .*wanted .* of shape \[4, "),
    ],
)
def test_checkpoint_of_another_run_is_found(good: Config, started: epath.Path, changes: dict, message: str) -> None:
    (problem,) = list_problems(changed(good, **changes), started)
    assert re.match(message, problem)


def test_checkpoint_with_another_vocabulary_is_found(started: epath.Path, tmp_path: Path) -> None:
    words = [*WORDS[:-1], "other"]
    config = changed(TINY, data={"dir": str(write_corpus(tmp_path / "other", words=words))})
    (problem,) = list_problems(config, started)
    assert problem.startswith(
        f"data.dir: found a different vocabulary in {config.data.dir}, wanted the vocabulary of {started}"
    )


def test_workdir_that_cannot_be_written_is_found(good: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (problem,) = list_problems(good, tmp_path / "file" / "run")
    wanted = "a folder that can be written; change its permissions or name another --workdir"
    assert problem == f"workdir: found {tmp_path}/file: Not a directory, wanted {wanted}"


def test_unusable_workdir_is_one_problem(good: Config, tmp_path: Path) -> None:
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
        (problem,) = list_problems(good, tmp_path / name)
        assert re.match(f"workdir: found {tmp_path}.*{message}", problem), problem


def test_missing_packages_for_buckets_are_named(good: Config, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    (problem,) = list_problems(good, epath.Path("gs://bucket/run"))
    wanted = "wanted the packages for buckets; pip install gcsfs google-cloud-storage"
    assert problem.startswith("workdir: found gs://bucket/run: ModuleNotFoundError: ") and problem.endswith(wanted)


def test_bucket_of_another_cloud_is_refused(good: Config) -> None:
    (problem,) = list_problems(good, epath.Path("s3://bucket/run"))
    assert problem == "workdir: found s3://bucket/run, wanted a folder on a disk or gs://BUCKET/FOLDER"


@pytest.mark.parametrize(("slices", "wanted"), [("", 3), ("2", 6)])
def test_hosts_of_a_slice_that_have_not_joined_are_counted(
    good: Config, slices: str, wanted: int, tmp_path: Path, monkeypatch
) -> None:
    """A slice has three hosts; one process has joined."""
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b,c")
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", slices)
    assert not list_problems(good, tmp_path)  # not on a TPU
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    (problem,) = list_problems(good, tmp_path)
    assert problem.startswith(f"hosts: found 1, wanted {wanted}, by TPU_WORKER_HOSTNAMES and MEGASCALE_NUM_SLICES")


@pytest.mark.parametrize(
    ("train", "count"),
    [
        ({"steps": 2000, "keep_latest": 3}, 5),  # the best, and one that is written before another is removed
        ({"steps": 2000, "keep_latest": 3, "keep_every": 500}, 9),
        ({"steps": 150}, 2),  # no more than the run writes
    ],
)
def test_disk_must_have_room_for_the_checkpoints_that_are_kept(
    good: Config, started: epath.Path, train: dict, count: int, tmp_path: Path, monkeypatch
) -> None:
    config = changed(good, train=train | {"checkpoint_every": 100, "validate_every": 100})
    needed_bytes = count * (3 * 4 * bert.size(config.model) + 8)  # parameters, two moments, step and Adam's count
    free = {"bytes": needed_bytes}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free["bytes"]))
    assert not any("MB free" in problem for problem in list_problems(config, tmp_path))
    free["bytes"] -= 1
    assert any(f"wanted {count} x 0.3 MB" in problem for problem in list_problems(config, tmp_path))
    assert not any("MB free" in problem for problem in list_problems(config, started))  # old checkpoints make room


def test_wrong_number_in_any_field_is_a_problem(good: Config, tmp_path: Path) -> None:
    """None of these numbers raises an exception that is not a problem."""
    tried = 0
    for section in ("model", "data", "optim", "train", "mesh"):
        for name, kind in typing.get_type_hints(type(getattr(good, section))).items():
            for value in {int: (-2, 0), float: (-1.0, float("nan"))}.get(kind, ()):
                tried += 1
                problems = list_problems(changed(good, **{section: {name: value}}), tmp_path)
                is_valid = value == 0 and name in (
                    "key_dim",
                    "window",
                    "unroll",
                    "workers",
                    "batch_warmup_steps",
                    "warmup_steps",
                    "decay_steps",
                    "validate_batches",
                    "keep_every",
                )
                assert bool(problems) != is_valid, (section, name, value)
    assert tried > 50


def test_check_raises_all_errors_and_prints_advice(good: Config, tmp_path: Path, capsys) -> None:
    config = changed(good, optim={"warmup_steps": 1000, "learning_rate": 0.5}, mesh={"data": 3}, seed=-1)
    with pytest.raises(UserErrors) as error:
        check(config, tmp_path)
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == ["seed", "optim.warmup_steps", "mesh"]
    assert capsys.readouterr().err.startswith("warning: optim.learning_rate: found 0.5")


def test_commands_report_problems_and_start_nothing(
    good: Config, started: epath.Path, storage: Storage, tmp_path: Path
) -> None:
    """Checkpoint 9 of `damaged` has no optimizer; the only bucket that exists is gs://bucket."""
    damaged = Path(shutil.copytree(started, tmp_path / "damaged"))
    step = damaged / "checkpoints" / "9"
    shutil.copytree(damaged / "checkpoints" / "7", step)
    shutil.rmtree(step / "optimizer")
    flags = ("--config=configs/tiny.py", "--config.train.steps=30", f"--config.data.dir={good.data.dir}")
    fits, other = "--config.model.length=16", ("--config.model.length=8", "--config.mesh.data=3")
    misspelled, bucket, new, refused, continued = run_commands(
        [
            ["doctor", *flags, fits, "--workdir=gs://bukcet/run"],
            ["doctor", *flags, fits, "--workdir=gs://bucket/run"],
            ["doctor", *flags, fits, f"--workdir={tmp_path}/new"],
            ["pretrain", *flags, *other, f"--workdir={tmp_path}/[x]"],
            ["pretrain", *flags, fits, f"--workdir={damaged}"],
        ],
        imports=["symbert_jax.train.loop"],
        **storage.environment,
    )
    assert bucket == new == Result(0, "nothing found that would stop this run\n", "")
    assert storage.generation and not storage.objects, "no probe was written, or it was not removed"
    for result in (misspelled, refused, continued):
        assert result.returncode == 2 and not result.stdout
    line = "error: workdir: found gs://bukcet/run: NotFound: 404 .*The specified bucket does not exist.*; check its.*"
    assert re.fullmatch(line, misspelled.stderr.strip())
    mesh, length, workdir = refused.stderr.splitlines()
    assert mesh.startswith("error: mesh: found mesh.data=3")
    assert length.startswith("error: model.length: found 8, wanted 16")
    assert workdir.startswith(f"error: workdir: found {tmp_path}/[x], with [ in it, wanted a path that checkpoints")
    hint = f"--step=7 (finetune: --config.checkpoint_steps=7), or move {step} away and run the same command again"
    line = f"{step} damaged: it has no optimizer, wanted a whole checkpoint; the latest whole step is 7: take it with"
    assert continued.stderr == f"error: checkpoint: found {line} {hint}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]
