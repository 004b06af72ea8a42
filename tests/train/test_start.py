"""A run continues from its own checkpoint, or starts with the parameters of another run, also with longer rows."""

import dataclasses
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax.checkpoint import Checkpoints, index
from symbert_jax.config import Config, MeshConfig, TrainConfig, values_by_name
from symbert_jax.data.corpus import Corpora, Corpus
from symbert_jax.errors import Advice, UserError
from symbert_jax.model import bert
from symbert_jax.sharding import make_mesh, put_batch
from symbert_jax.train import start
from symbert_jax.train import state as states
from symbert_jax.train.start import init_from_run, problems, restore_or_init
from tests.conftest import WORDS, configure, init_params_numpy, write_corpus

logits = jax.jit(bert.logits, static_argnums=0)
MESHES = [MeshConfig(data=8), MeshConfig(data=2, model=4), MeshConfig(data=4, model=2, fsdp=True)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory):
    """A workdir with @ in its name and steps 5 and 6, the states in them, and a config that fits it."""
    folder = tmp_path_factory.mktemp("source")
    corpus = write_corpus(folder / "corpus")
    workdir = epath.Path(folder / "run@home")
    config = configure(model={"attention": "pairwise"}, data={"dir": str(corpus)})
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        params = jax.device_put(init_params_numpy(config.model))
        saved = {
            step: states.init_from_params(config, jax.tree.map(lambda leaf, by=step: leaf * (1 + by / 50), params))
            for step in (5, 6)
        }
        checkpoints = Checkpoints(workdir, TrainConfig(), Corpus(str(corpus)).fingerprint)
        for step, state in saved.items():
            checkpoints.save(step, state.params, state.optimizer, config, validation_loss=None)
        checkpoints.close()
    shutil.copy(corpus / "vocab.txt", workdir)
    return workdir, saved, config


def changed(config: Config, **model: object) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **model))


@pytest.mark.parametrize(("mesh", "suffix", "step"), zip(MESHES, ("", "@5", "@6"), (6, 5, 6), strict=True))
def test_init_from_run_takes_parameters_and_a_new_optimizer(source, mesh: MeshConfig, suffix: str, step: int) -> None:
    """`init_from` is the workdir with `suffix`; without one, it takes the latest step."""
    workdir, saved, config = source
    config = dataclasses.replace(config, mesh=mesh, init_from=f"{workdir}{suffix}")
    with jax.set_mesh(make_mesh(mesh)):
        state, wanted = init_from_run(config, Corpus(config.data.dir)), states.abstract(config)
    jax.tree.map(np.testing.assert_array_equal, state.params, saved[step].params)
    assert int(state.step) == 0 and not any(leaf.any() for leaf in jax.tree.leaves(state.optimizer))
    jax.tree.map(check_sharding, state, wanted)


def check_sharding(leaf: jax.Array, wanted: jax.ShapeDtypeStruct) -> None:
    assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)


@pytest.mark.parametrize(("mesh", "length"), [(MESHES[1], 32), (MESHES[2], 40), (MESHES[1], 8)])
def test_init_from_run_with_another_length_keeps_logits(source, mesh: MeshConfig, length: int) -> None:
    workdir, saved, config = source
    other = dataclasses.replace(changed(config, length=length), mesh=mesh, init_from=str(workdir))
    rng = np.random.default_rng(0)
    width = min(length, config.model.length)
    tokens, positions = rng.integers(0, len(WORDS), (8, width)), np.tile(np.arange(width), (8, 1))
    with jax.set_mesh(make_mesh(mesh)):
        state = init_from_run(other, Corpus(other.data.dir))
        jax.tree.map(check_sharding, state, states.abstract(other))
        batch = put_batch({"tokens": tokens, "positions": positions})
        found = np.asarray(logits(other.model, state.params, **batch))
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        wanted = logits(config.model, saved[6].params, tokens=tokens, positions=positions)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    table, old = np.asarray(state.params["embeddings"]["position"]), saved[6].params["embeddings"]["position"]
    np.testing.assert_array_equal(table, np.concatenate([old, old, old])[:length])


def test_run_with_checkpoints_ignores_init_from(source) -> None:
    workdir, saved, config = source
    config = dataclasses.replace(config, init_from="nowhere")
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        state = restore_or_init(config, Corpus(config.data.dir), Checkpoints(workdir))
    assert int(state.step) == 6
    jax.tree.map(np.testing.assert_array_equal, state.params, saved[6].params)


@pytest.mark.parametrize(
    ("model", "suffix", "message"),
    [
        ({"layers": 3}, "", r".*6/params: found layers\.\S* of shape \[2, .*wanted layers\.\S* of shape \[3, "),
        ({"dim": 64, "length": 32}, "", r".*found embeddings.norm.bias of shape \[32\], wanted \S* of shape \[64\]"),
        ({"attention": "standard"}, "@5", r".*5/params: found no layers.attention.key.bias, wanted"),
        ({"norm": "pre"}, "", "model.norm: found pre, wanted post, with which .* reached step 6"),
        ({}, "@7", r"checkpoint: found no step 7 in .*wanted one of \[5, 6\]"),
        ({}, "/nowhere", "checkpoint: found no .*nowhere/checkpoints, wanted the workdir of a pretrain run"),
    ],
)
def test_init_from_run_refuses_another_model(source, model: dict, suffix: str, message: str, tmp_path: Path) -> None:
    workdir, _, config = source
    config = dataclasses.replace(changed(config, **model), init_from=f"{workdir}{suffix}")
    check_refused(config, message, tmp_path)


def test_init_from_run_refuses_another_vocabulary(source, tmp_path: Path) -> None:
    workdir, _, config = source
    other = write_corpus(tmp_path / "other", words=[*WORDS[:-1], "other"])
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=str(other)), init_from=str(workdir))
    message = f"data.dir: found a different vocabulary in {other}, wanted the vocabulary of {workdir}"
    check_refused(config, message, tmp_path)


def test_init_from_run_reports_another_window(source, tmp_path: Path) -> None:
    workdir, _, config = source
    (found,) = list_problems(dataclasses.replace(changed(config, window=8), init_from=str(workdir)), tmp_path)
    assert isinstance(found, Advice) and found.what == "model.window"


def test_workdir_of_an_imported_model_keeps_its_norm_and_reports_another_window(source, tmp_path: Path) -> None:
    """Such a workdir has step 0 alone. All of these models have the same arrays."""
    _, saved, config = source
    workdir = epath.Path(tmp_path / "imported")
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        start.write_first_checkpoint(workdir, config, saved[5].params)
    shutil.copy(Path(config.data.dir) / "vocab.txt", workdir)
    (found,) = list_problems(changed(config, window=8), workdir)
    assert isinstance(found, Advice) and found.what == "model.window" and not list_problems(config, workdir)
    with pytest.raises(UserError, match=r"model.norm: found pre, wanted post, with which .* reached step 0; the param"):
        list_problems(changed(config, norm="pre"), workdir)


def list_problems(config: Config, workdir: Path | epath.Path) -> list[UserError]:
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        return list(problems(config, Corpora(), epath.Path(workdir)))


def test_problems_report_a_changed_recipe_field_by_field(source) -> None:
    workdir, _, config = source
    other = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dropout=0.2, dtype="bfloat16", remat="full", kernel="xla"),
        data=dataclasses.replace(config.data, cross_document=False, reader_threads=9, vocab="train"),
        optim=dataclasses.replace(config.optim, schedule="cosine", weight_decay=0.1, accumulate=2),
        train=dataclasses.replace(config.train, steps=300, validate_every=5, log_every=7, keep_latest=2, wandb="x"),
        mesh=MeshConfig(data=2),
    )
    reported = list_problems(other, workdir)
    assert all(isinstance(each, Advice) for each in reported)
    assert [each.what for each in reported] == [
        *("model.dropout", "model.dtype", "data.cross_document", "optim.schedule", "optim.weight_decay"),
        *("optim.accumulate", "train.steps", "train.validate_every"),
    ]
    wanted = f"linear, with which {workdir} reached step 6; the run continues with the new value"
    assert str(reported[3]) == f"optim.schedule: found cosine, wanted {wanted}"
    assert not list_problems(config, workdir)


def test_only_phases_to_come_can_change(source, tmp_path: Path) -> None:
    """The run has reached step 6 in one phase of batches of 16 rows."""
    workdir, _, config = source
    corpus, other = config.data.dir, str(write_corpus(tmp_path / "other", num_rows=63))
    for phase, data, refused in (
        ("3: data.batch_size=8", {}, "data.batch_size: found 8 from step 0 on, wanted 16, with which"),
        ("3: data.batch_size=16", {"batch_size": 8}, "data.batch_size: found 8 from step 3 on, wanted 16, with which"),
        ("3: model.length=8", {}, "model.length: found 8 from step 0 on, wanted 16, with which"),
        (f"3: data.dir={corpus}", {"dir": other}, f"data.dir: found {other} from step 3 on, wanted {corpus}, with"),
        (f"6: data.dir={other}", {}, f"data.dir: found a different corpus in {other}, wanted the corpus with which"),
        (f"6: data.dir={corpus} data.batch_size=16", {"dir": other, "batch_size": 8}, None),
    ):
        new = dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, **data),
            train=dataclasses.replace(config.train, phases=(phase,)),
        )
        found = list_problems(new, workdir)
        errors = [str(problem) for problem in found if not isinstance(problem, Advice)]
        assert [error[: len(refused or "")] for error in errors] == [refused] * (refused is not None), errors
        assert refused or [problem.what for problem in found] == ["data.batch_size", "train.phases"]


def test_every_field_is_reported_or_refused_or_free_to_change() -> None:
    """A new field is reported unless it is listed as free or fixed."""
    free = {field for field in values_by_name(Config()) if start._FREE.fullmatch(field)}
    assert len(free) == 24 and not free & set(start._FIXED) and set(start._FIXED) < set(values_by_name(Config()))


def test_problems_refuse_another_corpus_but_not_a_moved_one(source, tmp_path: Path) -> None:
    """With 64 rows, `write_corpus` writes the corpus of `source` to another folder."""
    workdir, _, config = source
    for rows, same in ((64, True), (63, False)):
        data = dataclasses.replace(config.data, dir=str(write_corpus(tmp_path / str(rows), num_rows=rows)))
        reported = [str(each) for each in list_problems(dataclasses.replace(config, data=data), workdir)]
        assert same == (reported == [])
    hint = f"name that corpus, or start a new run from here: a new --workdir and --config.init_from={workdir}@6"
    wanted = f"the corpus with which {workdir} reached step 6; {hint}"
    assert reported == [f"data.dir: found a different corpus in {data.dir}, wanted {wanted}"]
    assert not list_problems(dataclasses.replace(config, data=data, init_from=f"{workdir}@6"), tmp_path / "new")


def test_problems_report_damage_before_other_problems(source, tmp_path: Path, monkeypatch) -> None:
    workdir, _, config = source
    copy = Path(shutil.copytree(workdir, tmp_path / "run"))
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=8))
    (copy / "checkpoints" / "3" / "optimizer").mkdir(parents=True)
    (reported,) = list_problems(config, copy)
    wanted = "damaged: it is empty, wanted a whole checkpoint; it is ignored; remove it"
    assert isinstance(reported, Advice) and str(reported) == f"checkpoint: found {copy}/checkpoints/3 {wanted}"
    (copy / "checkpoints" / "7").mkdir()
    damaged = f"checkpoint: found {copy}/checkpoints/7 damaged: it is empty, wanted a whole .* whole step is 6: "
    with pytest.raises(UserError, match=damaged):
        list_problems(other, copy)
    (copy / "checkpoints" / "7").rmdir()
    for file in (copy / "checkpoints" / "6" / "params" / "d").iterdir():
        file.write_bytes(file.read_bytes()[::-1])
    damaged = f"checkpoint: found {copy}/checkpoints/6 damaged: params/d/.* a wrong checksum, .* whole step is 5: "
    monkeypatch.setattr(index, "_SMALL", 0)  # the files of real checkpoints are large
    from_copy, corpus = dataclasses.replace(config, init_from=str(copy)), Corpus(config.data.dir)
    for read in (
        lambda: list_problems(other, copy),
        lambda: list_problems(from_copy, tmp_path / "new"),
        lambda: init_from_run(from_copy, corpus),
    ):
        with pytest.raises(UserError, match=damaged):
            read()


def test_init_from_prefers_a_workdir_whose_name_ends_like_a_step(source, mesh, tmp_path: Path, monkeypatch) -> None:
    workdir, _, config = source
    monkeypatch.setenv("HOME", str(workdir.parent))
    shutil.copytree(workdir, tmp_path / "run@7")
    named = (f"~/{workdir.name}", 6), (f"~/{workdir.name}@5", 5), (f"{tmp_path}/run@7", 6), (f"{tmp_path}/run@7@5", 5)
    corpus = Corpus(config.data.dir)
    for init_from, step in named:
        with start._source(dataclasses.replace(config, init_from=init_from), corpus) as (_, found_step, _):
            assert found_step == step
    for init_from in (f"{workdir}@²", f"{workdir}@-5", f"{workdir}@", f"{workdir}@5@", "@5", f"{workdir}@{10**30}"):
        with pytest.raises(UserError, match="checkpoint: found no "):
            init_from_run(dataclasses.replace(config, init_from=init_from), corpus)


def check_refused(config: Config, message: str, workdir: Path) -> None:
    """Checks that the checks before a run and the run itself raise the same error."""
    corpus = Corpus(config.data.dir)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        with pytest.raises(UserError) as checked:
            list(problems(config, Corpora(), epath.Path(workdir / "new")))
        with pytest.raises(UserError) as run:
            init_from_run(config, corpus)
    assert str(checked.value) == str(run.value) and re.match(message, str(run.value))
