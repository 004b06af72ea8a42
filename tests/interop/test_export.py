"""`export` writes all files, refuses wrong arguments, and fails if the folder computes other logits."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from symbert_jax.config import ATTENTIONS
from symbert_jax.data import tokenizer
from symbert_jax.errors import UserError
from symbert_jax.interop import export as exporting
from symbert_jax.interop import folder
from symbert_jax.interop.architecture import AFFINITY
from symbert_jax.interop.export import export
from symbert_jax.storage import lock
from tests.interop.ours import EXPORT_OPTIONS, FIXTURES, VOCAB

FILES = [
    "README.md",
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_export_to_plpi_writes_the_imported_tensors(attention, workdirs, tmp_path, capsys) -> None:
    source, out = FIXTURES / "plpi" / AFFINITY[attention], epath.Path(tmp_path / "out")
    export(workdirs[attention], out, **EXPORT_OPTIONS | {"format": "plpi"})
    assert "by at most 0.0e+00" in capsys.readouterr().out
    wanted = safetensors.numpy.load_file(source / "model.safetensors")
    found = safetensors.numpy.load_file(out / "model.safetensors")
    assert found.keys() == wanted.keys()
    # bit by bit, which also tells 0 from -0
    assert all(np.array_equal(found[name].view(np.uint32), wanted[name].view(np.uint32)) for name in wanted)
    theirs, ours = (json.loads((where / "config.json").read_text()) for where in (source, out))
    assert {name: ours[name] for name in theirs if name in ours} == {
        name: theirs[name] for name in theirs if name in ours
    }
    assert ours["plpi_affinity_function"] == AFFINITY[attention] and ours["model_type"] == "plpi/bert"


def test_export_in_bfloat16_halves_the_size(workdirs, tmp_path, capsys) -> None:
    """Rounding to bfloat16 changes the logits."""
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        out = epath.Path(tmp_path / dtype)
        export(workdirs["pairwise"], out, **EXPORT_OPTIONS | {"step": 0, "dtype": dtype})
        sizes[dtype] = sum(tensor.nbytes for tensor in folder.read(out).tensors.values())
        assert json.loads((out / "config.json").read_text())["torch_dtype"] == dtype
    assert sizes["bfloat16"] * 2 == sizes["float32"]
    assert "at most 0.0e+00" not in capsys.readouterr().out.splitlines()[-1]


def test_export_writes_card_and_all_files(workdirs, tmp_path) -> None:
    export(workdirs["pairwise"], epath.Path(tmp_path / "out"), **EXPORT_OPTIONS | {"command": "the command"})
    card = (tmp_path / "out" / "README.md").read_text()
    for text in ("pipeline_tag: fill-mask", "pairwise", "Wk = Wq Pᵀ", "`the command`", "validation loss", "corpus"):
        assert text in card
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


@pytest.mark.parametrize("name", FILES)
def test_full_disk_raises_error_with_file_name(name: str, tmp_path: Path) -> None:
    """A file is written as `name`.new first. Every write to /dev/full fails with ENOSPC."""
    (tmp_path / f"{name}.new").symlink_to("/dev/full")
    wordpiece, tensors = tokenizer.read(VOCAB), {"weight": np.zeros(1 << 16, np.float32)}
    with pytest.raises(OSError, match=f"'{tmp_path / name}'") as raised:
        config = {"model_type": "bert", "max_position_embeddings": 32}
        folder.write(epath.Path(tmp_path), config, tensors, wordpiece, "card")
    assert raised.value.errno == errno.ENOSPC


def test_export_refuses_folder_with_other_logits(workdirs, tmp_path, monkeypatch) -> None:
    """The folder keeps the name OUT.incomplete."""

    def fold_wrongly(model, params):
        model, folded = fold(model, params)
        folded["layers"]["attention"]["key"]["bias"] = folded["layers"]["attention"]["key"]["bias"] + 1
        folded["layers"]["attention"]["key"]["kernel"] = -30 * folded["layers"]["attention"]["key"]["kernel"]
        return model, folded

    fold = exporting.fold
    monkeypatch.setattr(exporting, "fold", fold_wrongly)
    with pytest.raises(UserError, match=r"logits that differ by .*, wanted a difference of at most 1e-04"):
        export(workdirs["pairwise"], epath.Path(tmp_path / "out"), **EXPORT_OPTIONS)
    assert not (tmp_path / "out").exists() and (tmp_path / "out.incomplete" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 7}, r"no step 7 in .*, wanted one of \[0\]"),
        ({"format": "onnx"}, "format: found 'onnx', wanted one of huggingface, plpi"),
        ({"dtype": "int4"}, "dtype: found 'int4', wanted one of float32, bfloat16"),
        ({"out": epath.Path(FIXTURES)}, "out: found .* not empty"),
        ({"out": epath.Path(FIXTURES) / "plpi" / "vanilla" / "config.json"}, "out: found .* which is a file"),
        ({"source": epath.Path(FIXTURES)}, "wanted the workdir of a pretrain run"),
    ],
)
def test_export_refuses_wrong_arguments(change, message, workdirs, tmp_path) -> None:
    arguments = {"source": workdirs["standard"], "out": epath.Path(tmp_path / "out")}
    with pytest.raises(UserError, match=message):
        export(**arguments | EXPORT_OPTIONS | change)
    assert not (tmp_path / "out").exists()


def test_export_replaces_incomplete_folder_but_not_its_source(workdirs, tmp_path) -> None:
    out, incomplete = epath.Path(tmp_path / "a [b] é"), tmp_path / "a [b] é.incomplete"
    (incomplete / "old").mkdir(parents=True)
    (incomplete / "added_tokens.json").write_text("{}")
    export(workdirs["standard"], out, **EXPORT_OPTIONS)
    assert not incomplete.exists() and {"old", "added_tokens.json", ".lock"}.isdisjoint(
        path.name for path in out.iterdir()
    )
    with (
        lock(epath.Path(tmp_path / "held.incomplete"), "out"),
        pytest.raises(UserError, match=r"out: found .* in use by"),
    ):
        export(workdirs["standard"], epath.Path(tmp_path / "held"), **EXPORT_OPTIONS)
    for inside in (workdirs["standard"] / "out", workdirs["standard"] / "checkpoints" / "out"):
        with pytest.raises(UserError, match=r"out: found .*, inside --checkpoint"):
            export(workdirs["standard"], inside, **EXPORT_OPTIONS)


def test_export_refuses_damaged_vocabulary_or_model(workdirs, tmp_path) -> None:
    shutil.copytree(workdirs["standard"], tmp_path / "workdir")
    (tmp_path / "workdir" / "vocab.txt").write_text("the\n")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "model.json").write_text('{"task": "mnli", "score": "high", "trial": "", "model": {}}')
    for name, message in (("workdir", r"no \[PAD\]"), ("saved", "model.json: .*, wanted score, task, model, trial")):
        with pytest.raises(UserError, match=f"^checkpoint: found .*{message}"):
            export(epath.Path(tmp_path / name), epath.Path(tmp_path / "out"), **EXPORT_OPTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved", "workdir"]
