"""Fine-tuning end to end on tiny GLUE: seeds side by side, exact evaluation, resumption, and what is left behind."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from sklearn.metrics import accuracy_score

import symbert_jax
from symbert_jax import sharding
from symbert_jax.config import FinetuneConfig, GlueConfig, MeshConfig
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.errors import UserError
from symbert_jax.eval import finetune as module
from symbert_jax.eval import saved, training
from symbert_jax.eval.finetune import finetune
from tests.eval.conftest import results

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def usual(pretrained, glue) -> dict:
    """The paper's protocol but a rate for tiny models."""
    usual = {"checkpoint": (str(pretrained),), "tasks": ("sst2",), "learning_rates": (3e-3,), "epochs": 3}
    return usual | {"seeds": 1, "glue": glue, "mesh": MeshConfig(data=8)}


@pytest.fixture
def run(usual, tmp_path):
    """Fine-tunes as usual but for what is said, and returns the workdir."""

    def go(name: str = "run", **changes) -> Path:
        finetune(FinetuneConfig(**usual | changes), epath.Path(tmp_path / name))
        return tmp_path / name

    return go


@pytest.fixture(scope="module")
def whole(usual, tmp_path_factory) -> Path:
    """The workdir of a usual run that leaves all it can."""
    workdir = tmp_path_factory.mktemp("whole")
    finetune(FinetuneConfig(**usual, predictions=True, save_models=True), epath.Path(workdir))
    return workdir


def trials(workdir: Path) -> list[dict]:
    return [trial for line in (workdir / "trials.jsonl").read_text().splitlines() for trial in json.loads(line)]


def tasks(workdir: Path) -> dict:
    return results(workdir)["checkpoints"][0]["tasks"]


def test_seeds_side_by_side_are_the_seeds_one_by_one(run, glue, monkeypatch) -> None:
    lines = Path(glue.source.removeprefix("tsv:"), "SST-2/dev.tsv").read_text().splitlines()[1:]
    labels = [int(line.rpartition("\t")[2]) for line in lines]
    logits: dict[str, dict[int, np.ndarray]] = {"one": {}, "three": {}}

    def train(trials, together, *arguments):
        trained, params = training.train(trials, together, *arguments)
        kind = "one" if together == 1 else "three"
        logits[kind] |= {each.result.trial.seed: each.logits["validation"] for each in trained}
        return trained, params

    monkeypatch.setattr(module, "train", train)
    one, three = run("one", seeds=3, together=1), run("three", seeds=3, together=3)
    assert tasks(one)["sst2"]["trials"] == tasks(three)["sst2"]["trials"]
    assert sorted(logits["three"]) == sorted(logits["one"]) == [0, 1, 2]
    for seed, found in logits["one"].items():
        np.testing.assert_allclose(logits["three"][seed], found, atol=1e-3)
        assert (logits["three"][seed].argmax(-1) == found.argmax(-1)).all()
        score = tasks(one)["sst2"]["trials"][seed]["metrics"]["validation"]["accuracy"]
        assert score == accuracy_score(labels, found.argmax(-1))  # of the plain list, whatever the padding
    assert np.abs(logits["one"][0] - logits["one"][1]).max() > 0.1, "seeds differ"


def test_it_learns_and_reports(run, capsys) -> None:
    workdir = run(seeds=2, epochs=5, together=2)
    found = results(workdir)["checkpoints"][0]
    assert min(trial["metrics"]["validation"]["accuracy"] for trial in found["tasks"]["sst2"]["trials"]) > 0.9
    assert found["tasks"]["sst2"]["collapsed"] == 0 and found["step"] == 20
    assert found["means"]["mean"] == pytest.approx(found["tasks"]["sst2"]["scores"]["validation"]["mean"])
    assert "| SST-2 | accuracy |" in (workdir / "results.md").read_text()
    said = capsys.readouterr().out
    assert "| checkpoint | SST-2 | mean of 1 |" in said and "(2/2 trials" in said
    assert (workdir / "scores.png").stat().st_size > 1000


@pytest.mark.parametrize("mesh", [MeshConfig(data=4, model=2), MeshConfig(data=8, fsdp=True)])
def test_scores_are_the_same_on_every_mesh(run, whole, mesh) -> None:
    assert tasks(run(mesh=mesh)) == tasks(whole)


def test_one_compilation_per_length_whatever_the_seed_the_rate_or_the_task(run, monkeypatch) -> None:
    shapes = set()

    def put_batch(batch, dims="B"):
        shapes.add(batch.tokens.shape)
        return sharding.put_batch(batch, dims)

    monkeypatch.setattr(training, "put_batch", put_batch)
    training.steps.make_train_step.cache_clear()
    run(tasks=("sst2", "rte"), seeds=3, learning_rates=(1e-3, 3e-3), together=4, epochs=2)  # two groups of three
    run("rest", tasks=("rte",), seeds=5, together=3, epochs=2)  # three and two
    assert training.steps.make_train_step.cache_info().currsize == 1
    trained = {shape for shape in shapes if len(shape) == 3}  # R B T
    assert training.steps.make_train_step(*_arguments())._cache_size() == len(trained) > 1


def _arguments():
    from symbert_jax.eval.protocols import PROTOCOLS
    from tests.eval.conftest import CONFIG

    model = dataclasses.replace(CONFIG.model, unroll=0, dropout=0.1, attention_dropout=0.1)
    return model, 2, PROTOCOLS["paper"].optim


def test_a_finished_trial_is_never_repeated(run, whole, tmp_path) -> None:
    workdir, before = tmp_path / "run", trials(whole)
    workdir.mkdir()
    shutil.copy(whole / "trials.jsonl", workdir)
    run()
    assert trials(workdir) == before and (workdir / "results.json").exists()
    run(seeds=2)  # one more
    assert trials(workdir)[:1] == before and len(trials(workdir)) == 2
    run(seeds=2, epochs=1)  # another protocol
    assert len(trials(workdir)) == 4


def test_what_is_wanted_besides_is_made_when_its_trials_are_finished(run, whole) -> None:
    workdir = run(seeds=2, epochs=1)
    run(seeds=1, epochs=1, predictions=True, save_models=True)
    assert (workdir / "submission/SST-2.tsv").exists() and len(trials(workdir)) == 3
    run(seeds=2, epochs=1, predictions=True, save_models=True)
    (model,) = workdir.glob("models/*/sst2-*")
    assert saved.describe(epath.Path(model)).score == max(
        100 * trial["scores"]["validation"]["accuracy"] for trial in trials(workdir)
    )
    run(seeds=1, epochs=2, save_models=True)  # another protocol has another best
    assert len(list(workdir.glob("models/*/sst2-*"))) == 2


def test_finetune_replaces_damaged_predictions_and_models(run, whole, pretrained, tmp_path, capsys) -> None:
    workdir, start = tmp_path / "run", tmp_path / "_a, $b$ | c"
    shutil.copytree(whole, workdir)
    shutil.copytree(pretrained, start)
    (start / "config.json").write_text("[]")  # which a checkpoint does not need
    (predictions,) = workdir.glob("predictions/*.npz")
    predictions.write_bytes(before := predictions.read_bytes()[:-30])
    (model,) = workdir.glob("models/*/sst2-*")
    array = max((path for path in model.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    array.write_bytes(array.read_bytes()[:-1])
    run(predictions=True, save_models=True, checkpoint=(str(start), f"{start}/", f"{tmp_path}/run/../{start.name}"))
    first, again = trials(workdir)  # the three are one checkpoint, and that of `whole`
    assert first["trial"] == again["trial"] and first["scores"] == again["scores"]
    assert predictions.read_bytes().startswith(before) and predictions.stat().st_size > len(before)
    assert saved.read(epath.Path(model))["head"]["classifier"]["kernel"].shape == (32, 2)
    assert f"warning: checkpoint: found {model}/params damaged: " in capsys.readouterr().err
    (row,) = (line for line in (workdir / "results.md").read_text().splitlines() if "@ 20 |" in line)
    assert row.startswith(f"| {tmp_path}/_a, $b$ \\| c @ 20 | ")


def test_a_bucket_takes_what_a_disk_takes(usual, whole, bucket) -> None:
    for seeds in (1, 2):
        finetune(FinetuneConfig(**usual | {"seeds": seeds, "predictions": True}), epath.Path("gs://bucket/run"))
    assert len(bucket.cat("gs://bucket/run/trials.jsonl").splitlines()) == 2
    found = json.loads(bucket.cat("gs://bucket/run/results.json"))["checkpoints"][0]["tasks"]["sst2"]["trials"]
    wanted = json.loads((whole / "results.json").read_text())["checkpoints"][0]["tasks"]["sst2"]["trials"]
    assert [trial["metrics"] for trial in found[:1]] == [trial["metrics"] for trial in wanted]
    assert bucket.cat("gs://bucket/run/submission/SST-2.tsv").count(b"\n") == 8
    assert bucket.cat("gs://bucket/run/scores.png").startswith(b"\x89PNG")


def test_the_best_epoch_is_at_least_the_last(run) -> None:
    last, best = (run(select, select=select, tasks=("stsb",), epochs=4) for select in ("last", "best"))
    last, best = (tasks(workdir)["stsb"]["trials"][0] for workdir in (last, best))
    assert last["epoch"] == 4 and 1 <= best["epoch"] <= 4
    assert sum(best["metrics"]["validation"].values()) >= sum(last["metrics"]["validation"].values())


def test_a_grid_reports_its_best_setting(run) -> None:
    workdir = run(learning_rates=(1e-6, 3e-3, 3e-3), batch_sizes=(16, 32, 16))  # the same twice counts once
    found = tasks(workdir)["sst2"]
    assert len(found["trials"]) == 4 and found["learning_rate"] == 3e-3
    assert found["scores"]["validation"]["mean"] == max(
        100 * t["metrics"]["validation"]["accuracy"] for t in found["trials"]
    )


def test_mnli_warms_rte_and_predicts_the_diagnostics(run, glue) -> None:
    workdir = run(tasks=("RTE", "MNLI", "ax"), from_mnli=True, epochs=2, predictions=False)
    cold = run("cold", tasks=("rte",), epochs=2)
    assert tasks(workdir)["rte"]["trials"] != tasks(cold)["rte"]["trials"]
    assert set(tasks(workdir)["mnli"]["scores"]) == {"validation_matched", "validation_mismatched"}
    lines = (workdir / "submission/AX.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction" and len(lines) == 6
    assert {line.split("\t")[1] for line in lines[1:]} <= {"entailment", "neutral", "contradiction"}
    (model,) = workdir.glob("models/*/mnli-*/model.json")
    described = json.loads(model.read_text())
    assert described["task"] == "mnli" and described["length"] == 128
    dev_score = score_dev(model.parent, glue, "MNLI/dev_matched.tsv", "MNLI/dev_mismatched.tsv")
    assert dev_score == pytest.approx(described["score"])
    assert not list(workdir.glob("models/*/rte-*"))


def test_files_for_the_server_and_a_saved_model(whole) -> None:
    lines = (whole / "submission/SST-2.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["index", *map(str, range(7))]
    (model,) = whole.glob("models/*/sst2-*")
    params = saved.read(epath.Path(model))
    assert params["head"]["classifier"]["kernel"].shape == (32, 2) and (model / "vocab.txt").exists()


def score_dev(folder: Path, glue: GlueConfig, *files: str) -> float:
    """Returns the mean accuracy of a saved classifier on files of GLUE."""
    classifier, scores = symbert_jax.load_classifier(folder), []
    for file in files:
        lines = Path(glue.source.removeprefix("tsv:"), file).read_text().splitlines()[1:]
        *columns, labels = zip(*(line.split("\t") for line in lines), strict=True)
        texts = columns[0] if len(columns) == 1 else list(zip(*columns[1:], strict=True))
        scores.append(accuracy_score(labels, classifier.predict(texts)))
    return 100 * np.mean(scores)


def test_loaded_classifier_has_saved_score(whole, glue) -> None:
    (model,) = whole.glob("models/*/sst2-*")
    assert score_dev(model, glue, "SST-2/dev.tsv") == pytest.approx(saved.describe(epath.Path(model)).score)


def test_a_sweep_scores_every_checkpoint(run, pretrained) -> None:
    workdir = run(checkpoint_steps=(10, 20), epochs=1)
    assert [each["step"] for each in results(workdir)["checkpoints"]] == [10, 20]
    assert (workdir / "sweep.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": ("nowhere",)}, "nowhere"),
        ({"checkpoint_steps": (15,)}, "no step 15"),
        ({"protocol": "papper"}, "did you mean 'paper'"),
        (
            {"tasks": ("qqp", "sst2", "cola")},
            "no train and validation data of cola, qqp in .*tasks=sst2 leaves them out",
        ),
        ({"tasks": ("sst",)}, "did you mean 'sst2'"),
        ({"from_mnli": True, "tasks": ("rte",)}, "from_mnli: found True with tasks=rte, wanted mnli"),
        ({"mesh": MeshConfig(model=8)}, "model.heads: found 4, wanted a multiple of mesh.model=8"),
        ({"mesh": MeshConfig(model=3)}, "mesh: found mesh.data=-1 x mesh.model=3, wanted a product of 8"),
        ({"checkpoint": ("~nobody_here/x",)}, "checkpoint: found '~nobody_here/x'"),
        ({"checkpoint": ("",)}, "checkpoint: found '', wanted a path"),
        ({"name": "run[1]", "save_models": True}, r"workdir: found .*/run\[1\], with \[ in it, wanted"),
        ({"name": "/dev/null"}, "workdir: found /dev/null: "),
    ],
)
def test_a_mistake_is_told(run, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        run(**changes)


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (None, "vocab.txt"),
        ("[PAD]\n", "vocab.txt"),
        ("\n".join([*SPECIAL, *map(str, range(200))]), "found 205 tokens in .*vocab.txt, wanted at most 128"),
    ],
)
def test_finetune_refuses_unusable_vocabulary(run, pretrained, tmp_path, vocabulary, message) -> None:
    shutil.copytree(pretrained, tmp_path / "start")
    (tmp_path / "start/vocab.txt").unlink()
    if vocabulary is not None:
        (tmp_path / "start/vocab.txt").write_text(vocabulary)
    with pytest.raises(UserError, match=message):
        run(checkpoint=(f"{tmp_path}/start",))


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_signal_ends_finetune_with_one_line(monkeypatch, capfd, name, code) -> None:
    before = signal.getsignal(signal.Signals[name])
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with module._end_at_signals():
        signal.raise_signal(signal.Signals[name])
    assert ended == [code] and capfd.readouterr().err == f"\n{name}: the same command trains what is missing\n"
    assert signal.getsignal(signal.Signals[name]) == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup sets it
    with module._end_at_signals():
        signal.raise_signal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert ended == [code]


def test_it_takes_as_many_trials_at_once_as_it_is_told_and_one_on_a_processor() -> None:
    from tests.eval.conftest import CONFIG

    with jax.set_mesh(module.make_mesh(MeshConfig())):
        assert module.parallel_trials(FinetuneConfig(together=3), CONFIG.model, 1000, 16, 32) == 3
        assert module.parallel_trials(FinetuneConfig(), CONFIG.model, 1000, 16, 32) == 1


def test_elsewhere_it_takes_what_half_the_memory_holds(monkeypatch) -> None:
    from tests.eval.conftest import CONFIG

    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": self.limit}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    with jax.set_mesh(module.make_mesh(MeshConfig(data=1), jax.devices()[:1])):
        found = []
        for Device.limit in (0, 1e6, 1e9, 2e9):
            found.append(module.parallel_trials(FinetuneConfig(), CONFIG.model, 1000, 16, 32))
    assert found[:2] == [1, 1] and found[2] > 100 and found[3] == pytest.approx(2 * found[2], abs=1)
