"""Damage is found before a step is used; the error names the latest whole step. Unreadable paths are refused."""

import contextlib
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

import symbert_jax
from symbert_jax.checkpoint import Checkpoints, index, read_params, write_params
from symbert_jax.config import TrainConfig
from symbert_jax.errors import UserError
from tests.checkpoint.conftest import save, tree, verified_step


def test_damaged_file_is_harmless_or_an_error_with_the_step(two_steps, monkeypatch, capfd) -> None:
    files = sorted(path for path in Path(two_steps).rglob("*") if path.is_file())
    rng, num_errors = np.random.default_rng(0), 0
    for _ in range(200):  # changes one byte of a file, or truncates the file before it
        file = files[rng.integers(len(files))]
        before = file.read_bytes()
        i, step = int(rng.integers(len(before))), int(file.relative_to(two_steps).parts[1])
        changed = bytes([before[i] ^ int(rng.integers(1, 256))]) + before[i + 1 :]
        file.write_bytes(before[:i] + (changed if rng.random() < 0.7 else b""))
        monkeypatch.setattr(index, "_SMALL", rng.choice([0, 1 << 20]))  # 0: as if all files were large
        try:
            assert verified_step(two_steps, step=None if step == 20 else step) == step
        except UserError as error:
            num_errors += 1
            assert str(error).startswith(f"checkpoint: found {two_steps}/checkpoints/{step} damaged: ")
            other = 30 - step  # the other one of steps 10 and 20
            assert f"; the latest whole step is {other}: take it with --step={other} " in str(error)
            assert "\n" not in str(error)
        finally:
            file.write_bytes(before)
    assert 150 < num_errors < 200, "damage of commit_success.txt, which nothing reads, is harmless"
    assert verified_step(two_steps, step=None) == 20 and capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda step: [path.unlink() if path.is_file() else shutil.rmtree(path) for path in step.iterdir()],
            "it is empty",
        ),
        (lambda step: shutil.rmtree(step / "optimizer"), "it has no optimizer"),
        (lambda step: shutil.rmtree(step / "params"), "it has no params"),
        (lambda step: (step / "_CHECKPOINT_METADATA").unlink(), "_CHECKPOINT_METADATA is missing"),
        (lambda step: (step / "_CHECKPOINT_METADATA").write_text("[]"), "AttributeError: .*"),
        (
            lambda step: replace(step / "_CHECKPOINT_METADATA", '"batch_size": 16', '"batch_size": 17'),
            "_CHECKPOINT_METADATA has a wrong checksum",
        ),
        (
            lambda step: replace(step / "index.json", '"corpus": ""', '"corpus": "x"'),
            "index.json has a wrong checksum",
        ),
        (lambda step: (step / "params/manifest.ocdbt").write_bytes(b""), "params/manifest.ocdbt is empty"),
        (lambda step: os.truncate(max(step.glob("params/d/*")), 50), r"params/d/\S* has 50 bytes instead of \d+"),
        (lambda step: max(step.glob("optimizer/ocdbt*/d/*")).unlink(), r"optimizer/ocdbt\S* is missing"),
    ],
)
def test_error_about_damage_names_the_latest_whole_step(two_steps, damage, message: str, tmp_path: Path) -> None:
    workdir = epath.Path(shutil.copytree(two_steps, tmp_path / "run"))
    step = Path(workdir) / "checkpoints" / "20"
    damage(step)
    hint = rf"the latest whole step is 10: .*--step=10 .*, or move {step} away and run the same command again"
    line = f"checkpoint: found {step} damaged: {message}, wanted a whole checkpoint; {hint}"
    for read in (verified_step, symbert_jax.load):
        for requested in (None, 20):
            with pytest.raises(UserError, match=line):
                read(workdir, requested)
    with contextlib.closing(Checkpoints(workdir, TrainConfig())) as checkpoints, pytest.raises(UserError, match=line):
        checkpoints.latest()
    assert verified_step(workdir, step=10) == 10


def replace(file: Path, old: str, new: str) -> None:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_damage_without_an_index_is_an_error_with_the_step(two_steps, tmp_path: Path) -> None:
    """Older checkpoints have no index."""
    workdir = epath.Path(shutil.copytree(two_steps, tmp_path / "run"))
    step = Path(workdir) / "checkpoints" / "20"
    (step / "index.json").unlink()
    assert verified_step(workdir, step=None) == 20
    (step / "metrics" / "metrics").write_text("{")
    with pytest.raises(UserError, match=f"{step} damaged: metrics is not JSON, .* latest whole step is 10"):
        verified_step(workdir, step=None)
    shutil.rmtree(step / "metrics")
    os.truncate(max(step.glob("params/d/*")), 50)
    with pytest.raises(UserError, match=f"{step} damaged: .*params.*, .* latest whole step is 10"):
        verified_step(workdir, step=None)


@pytest.mark.parametrize("name", ["[x]", "a*", "a?", "a\\b", "gs:", "\udcff"])
def test_path_that_orbax_cannot_read_is_refused(two_steps, name: str, tmp_path: Path) -> None:
    workdir = epath.Path(tmp_path / name)
    message = r"workdir: found .*, with .* in it, wanted a path that checkpoints can be read back from"
    for write in (lambda: save(workdir, 1), lambda: write_params(workdir, tree(1))):
        with pytest.raises(UserError, match=message):
            write()
    assert not list(tmp_path.iterdir())
    shutil.copytree(two_steps, workdir)
    for read in (symbert_jax.load, read_params):
        with pytest.raises(UserError, match=message.replace("workdir", "checkpoint")):
            read(workdir)


@pytest.mark.parametrize("name", ["-a b#%20é: '\"$HOME{x}", "a\nb\t~@2 "])
def test_path_with_odd_characters_is_saved_and_restored(name: str, tmp_path: Path) -> None:
    workdir = save(epath.Path(tmp_path / name), 1)
    assert verified_step(workdir, step=None) == 1
    write_params(workdir / "params", tree(1))
    jax.tree.map(np.testing.assert_array_equal, read_params(workdir / "params"), tree(1))
