"""`export`: what is written, what is refused, and that a folder that computes something else is no success."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from symbert_jax.config import ATTENTIONS
from symbert_jax.errors import UserError
from symbert_jax.interop import export as exporting
from symbert_jax.interop import folder
from symbert_jax.interop.architecture import AFFINITY
from symbert_jax.interop.export import export
from symbert_jax.interop.import_ import import_
from symbert_jax.storage import lock
from tests.interop.ours import FIXTURES, VOCAB


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, epath.Path]:
    """The tiny models of the paper's code, imported."""
    found = {}
    for attention in ATTENTIONS:
        found[attention] = epath.Path(tmp_path_factory.mktemp("imported") / attention)
        import_(epath.Path(FIXTURES / "plpi" / AFFINITY[attention]), found[attention], str(VOCAB), None, "")
    return found


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_there_and_back_in_the_papers_format_every_bit_is_the_same(attention, workdirs, tmp_path, capsys) -> None:
    source, out = FIXTURES / "plpi" / AFFINITY[attention], epath.Path(tmp_path / "out")
    export(workdirs[attention], out, None, "plpi", "float32", "")
    assert "logits differ by 0.0e+00 at most" in capsys.readouterr().out
    wanted = safetensors.numpy.load_file(source / "model.safetensors")
    found = safetensors.numpy.load_file(out / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name].view(np.uint32), wanted[name].view(np.uint32)) for name in wanted)
    theirs, ours = (json.loads((where / "config.json").read_text()) for where in (source, out))
    assert {name: ours[name] for name in theirs if name in ours} == {
        name: theirs[name] for name in theirs if name in ours
    }
    assert ours["plpi_affinity_function"] == AFFINITY[attention] and ours["model_type"] == "plpi/bert"


def test_bfloat16_halves_the_file(workdirs, tmp_path, capsys) -> None:
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        out = epath.Path(tmp_path / dtype)
        export(workdirs["pairwise"], out, 0, "huggingface", dtype, "")
        sizes[dtype] = sum(tensor.nbytes for tensor in folder.read(out).tensors.values())
        assert json.loads((out / "config.json").read_text())["torch_dtype"] == dtype
    assert sizes["bfloat16"] * 2 == sizes["float32"]
    assert "differ by 0.0e+00" not in capsys.readouterr().out.splitlines()[-1]


def test_the_card_says_what_it_is_and_what_made_it(workdirs, tmp_path) -> None:
    export(workdirs["pairwise"], epath.Path(tmp_path / "out"), None, "huggingface", "float32", "the command")
    card = (tmp_path / "out" / "README.md").read_text()
    for said in ("pipeline_tag: fill-mask", "pairwise", "Wk = Wq Pᵀ", "`the command`", "validation loss", "corpus"):
        assert said in card
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]


def test_a_folder_that_computes_something_else_is_no_success(workdirs, tmp_path, monkeypatch) -> None:
    def spoil(model, params):
        model, folded = fold(model, params)
        folded["layers"]["attention"]["key"]["bias"] = folded["layers"]["attention"]["key"]["bias"] + 1
        folded["layers"]["attention"]["key"]["kernel"] = -30 * folded["layers"]["attention"]["key"]["kernel"]
        return model, folded

    fold = exporting.fold
    monkeypatch.setattr(exporting, "fold", spoil)
    with pytest.raises(UserError, match=r"export: found logits that differ by .*, wanted 1e-04 at most"):
        export(workdirs["pairwise"], epath.Path(tmp_path / "out"), None, "huggingface", "float32", "")
    assert not (tmp_path / "out").exists() and (tmp_path / "out.incomplete" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 7}, r"no step 7 in .*, wanted one of \[0\]"),
        ({"form": "onnx"}, "format: found 'onnx', wanted one of huggingface, plpi"),
        ({"dtype": "int4"}, "dtype: found 'int4', wanted one of float32, bfloat16"),
        ({"out": epath.Path(FIXTURES)}, "out: found .* not empty"),
        ({"out": epath.Path(FIXTURES) / "plpi" / "vanilla" / "config.json"}, "out: found .* which is a file"),
        ({"workdir": epath.Path(FIXTURES)}, "wanted the workdir of a pretrain run"),
    ],
)
def test_what_cannot_be_exported_is_one_clear_error(change, message, workdirs, tmp_path) -> None:
    wanted = {"workdir": workdirs["standard"], "out": epath.Path(tmp_path / "out"), "step": None}
    with pytest.raises(UserError, match=message):
        export(**wanted | {"form": "huggingface", "dtype": "float32", "command": ""} | change)
    assert not (tmp_path / "out").exists()


def test_export_replaces_killed_one_and_never_writes_into_its_source(workdirs, tmp_path) -> None:
    out, left = epath.Path(tmp_path / "a [b] é"), tmp_path / "a [b] é.incomplete"
    (left / "old").mkdir(parents=True)
    (left / "added_tokens.json").write_text("{}")
    export(workdirs["standard"], out, None, "huggingface", "float32", "")
    assert not left.exists() and {"old", "added_tokens.json", ".lock"}.isdisjoint(path.name for path in out.iterdir())
    with (
        lock(epath.Path(tmp_path / "held.incomplete"), "out"),
        pytest.raises(UserError, match=r"out: found .* in use by"),
    ):
        export(workdirs["standard"], epath.Path(tmp_path / "held"), None, "huggingface", "float32", "")
    for inside in (workdirs["standard"] / "out", workdirs["standard"] / "checkpoints" / "out"):
        with pytest.raises(UserError, match=r"out: found .*, inside the checkpoint's folder"):
            export(workdirs["standard"], inside, None, "huggingface", "float32", "")


def test_export_refuses_damaged_vocabulary_or_model(workdirs, tmp_path) -> None:
    shutil.copytree(workdirs["standard"], tmp_path / "workdir")
    (tmp_path / "workdir" / "vocab.txt").write_text("the\n")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "model.json").write_text('{"task": "mnli", "score": "high", "trial": "", "model": {}}')
    for name, message in (("workdir", r"no \[PAD\]"), ("saved", "model.json: .*, wanted score, task, model, trial")):
        with pytest.raises(UserError, match=f"^checkpoint: found .*{message}"):
            export(epath.Path(tmp_path / name), epath.Path(tmp_path / "out"), None, "huggingface", "float32", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved", "workdir"]
