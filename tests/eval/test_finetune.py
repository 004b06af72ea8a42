"""Fine-tuning end to end on tiny GLUE: parallel trials, exact scores, unfinished runs, and the files of a run."""

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
from symbert_jax.checkpoint import digest
from symbert_jax.config import FinetuneConfig, GlueConfig, MeshConfig
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.errors import UserError
from symbert_jax.eval import finetune as finetune_module
from symbert_jax.eval import saved, scores, steps, training
from symbert_jax.eval.protocols import PROTOCOLS
from symbert_jax.interop.export import export
from symbert_jax.storage import lock
from tests.conftest import configure
from tests.eval.conftest import CONFIG, finetune_on, read_results, read_tasks, read_trials, write_pretrained
from tests.forms import MODERN
from tests.interop.ours import EXPORT_OPTIONS


@pytest.fixture
def run(base_config, tmp_path):
    """Returns a function that fine-tunes with some fields of `base_config` changed and returns the workdir."""

    def run(name: str = "run", devices: int = 1, **changes) -> Path:
        return finetune_on(dataclasses.replace(base_config, **changes), tmp_path / name, devices)

    return run


@pytest.fixture
def no_dropout(monkeypatch) -> None:
    """Sets dropout to 0, which halves the time of a compilation."""
    monkeypatch.setitem(PROTOCOLS, "paper", dataclasses.replace(PROTOCOLS["paper"], dropout=0.0))


def record_training(monkeypatch) -> list[tuple[training.TaskRun, list[training.TrialOutcome], dict]]:
    """Returns a list to which each call of `train` adds its task run, its outcomes and its parameters."""
    recorded = []

    def train(run, group, progress):
        outcomes, params = training.train(run, group, progress)
        recorded.append((run, outcomes, params))
        return outcomes, params

    monkeypatch.setattr(finetune_module, "train", train)
    return recorded


def test_finetune_learns_and_reports(finished_run) -> None:
    """The run trains one seed for three epochs, from checkpoint 20."""
    checkpoint = read_results(finished_run)["checkpoints"][0]
    task = checkpoint["tasks"]["sst2"]
    (trial,) = task["trials"]
    assert trial["metrics"]["validation"]["accuracy"] > 0.9 and trial["epoch"] == 3
    assert task["collapsed"] == 0 and checkpoint["step"] == 20
    assert checkpoint["means"] == {"mean": pytest.approx(task["scores"]["validation"]["mean"])}
    assert "| SST-2 | accuracy |" in (finished_run / "results.md").read_text()
    assert (finished_run / "scores.png").stat().st_size > 1000
    lines = (finished_run / "submission/SST-2.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["index", *map(str, range(7))]
    (model,) = finished_run.glob("models/*/sst2-*")
    params = saved.read_params(epath.Path(model))
    assert params["head"]["classifier"]["kernel"].shape == (32, 2) and (model / "vocab.txt").exists()


def test_parallel_trials_equal_single_trials(run, glue, monkeypatch, capsys) -> None:
    """Compares groups of one trial with groups of two, the last of which is padded."""
    lines = Path(glue.source.removeprefix("tsv:"), "SST-2/dev.tsv").read_text().splitlines()[1:]
    labels = [int(line.rpartition("\t")[2]) for line in lines]
    recorded, logits = record_training(monkeypatch), []
    workdirs = [run(f"{together}", seeds=3, together=together) for together in (1, 2)]
    for groups in (recorded[:3], recorded[3:]):
        outcomes = [outcome for _, outcomes, _ in groups for outcome in outcomes]
        assert [outcome.result.trial.seed for outcome in outcomes] == [0, 1, 2]
        logits.append([outcome.logits["validation"] for outcome in outcomes])
    assert len(recorded) == 5
    trials = read_tasks(workdirs[0])["sst2"]["trials"]
    assert trials == read_tasks(workdirs[1])["sst2"]["trials"]
    for trial, single, parallel in zip(trials, *logits, strict=True):
        np.testing.assert_allclose(parallel, single, atol=1e-3)
        # the labels are in file order: the order and padding of batches must not matter
        assert trial["metrics"]["validation"]["accuracy"] == accuracy_score(labels, single.argmax(-1))
        assert (parallel.argmax(-1) == single.argmax(-1)).all()
    assert np.abs(logits[0][0] - logits[0][1]).max() > 0.1, "seeds do not differ"
    output = capsys.readouterr().out
    assert "| checkpoint | SST-2 | mean of 1 |" in output and "(3/3 trials" in output


def test_grid_on_sharded_mesh_reports_best_setting(run, finished_run) -> None:
    """A trial has the same result on a mesh as on one device."""
    mesh = MeshConfig(data=4, model=2, fsdp=True)
    # batches of 13 and 16 rows share a program, because the mesh pads both to 16; repeated values count once
    workdir = run(devices=8, mesh=mesh, learning_rates=(1e-6, 3e-3, 3e-3), batch_sizes=(16, 13, 16))
    task, (single,) = read_tasks(workdir)["sst2"], read_tasks(finished_run)["sst2"]["trials"]
    accuracies = {
        (trial["batch_size"], trial["learning_rate"]): trial["metrics"]["validation"]["accuracy"]
        for trial in task["trials"]
    }
    assert list(accuracies) == [(16, 1e-6), (16, 3e-3), (13, 1e-6), (13, 3e-3)]
    assert task["scores"]["validation"]["mean"] == 100 * max(accuracies.values()) > 100 * min(accuracies.values())
    assert accuracies[task["batch_size"], task["learning_rate"]] == max(accuracies.values())
    assert single in task["trials"]


def test_finetune_compiles_once_per_length(run, no_dropout, monkeypatch) -> None:
    """Another seed, learning rate, task or number of trials in the last group needs no compilation."""
    shapes, make = set(), steps.make_train_step
    cache_size_before: dict = {}

    def put_batch(batch, dims="B"):
        shapes.add((dims, batch.tokens.shape))
        return sharding.put_batch(batch, dims)

    def make_train_step(*arguments):
        step = make(*arguments)
        cache_size_before.setdefault(step, step._cache_size())
        return step

    monkeypatch.setattr(training, "put_batch", put_batch)
    monkeypatch.setattr(steps, "make_train_step", make_train_step)
    run(tasks=("sst2", "rte"), seeds=2, learning_rates=(1e-3, 3e-3), together=3, epochs=1)  # two groups of two
    run("other", tasks=("rte",), seeds=3, together=2, epochs=1)  # two trials and one
    ((train_step, size_before),) = cache_size_before.items()
    # only training batches have a leading dimension R
    num_lengths = len({shape for dims, shape in shapes if dims == "RB"})
    assert train_step._cache_size() - size_before <= num_lengths == 2


def test_finetune_trains_only_unfinished_trials(run, finished_run, tmp_path) -> None:
    """A trial is finished when the workdir has its result, and the predictions and model that the run asks for."""
    workdir, before = tmp_path / "run", read_trials(finished_run)
    workdir.mkdir()
    shutil.copy(finished_run / "trials.jsonl", workdir)
    run()
    assert read_trials(workdir) == before and (workdir / "results.json").exists()
    run(seeds=2)
    assert read_trials(workdir)[:1] == before and len(read_trials(workdir)) == 2
    run(predictions=True, save_models=True)  # seed 0 has neither predictions nor a model yet
    assert (workdir / "submission/SST-2.tsv").exists() and len(read_trials(workdir)) == 3
    run(seeds=2, predictions=True, save_models=True)
    (model,) = workdir.glob("models/*/sst2-*")
    accuracies = [trial["scores"]["validation"]["accuracy"] for trial in read_trials(workdir)]
    assert saved.read_description(epath.Path(model)).score == 100 * max(accuracies) and len(accuracies) == 4
    run(length=8, save_models=True)  # a different protocol
    assert len(read_trials(workdir)) == 5 and len(list(workdir.glob("models/*/sst2-*"))) == 2


def test_finetune_replaces_damaged_predictions_and_models(run, finished_run, pretrained, tmp_path, capsys) -> None:
    workdir, start = tmp_path / "run", tmp_path / "_a, $b$ | c"
    shutil.copytree(finished_run, workdir)
    shutil.copytree(pretrained, start)
    (start / "config.json").write_text("[]")  # not read, because a checkpoint has its own config
    (predictions,) = workdir.glob("predictions/*.npz")
    predictions.write_bytes(truncated := predictions.read_bytes()[:-30])
    (model,) = workdir.glob("models/*/sst2-*")
    array = max((path for path in model.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    array.write_bytes(array.read_bytes()[:-1])
    run(predictions=True, save_models=True, checkpoint=(str(start), f"{start}/", f"{tmp_path}/run/../{start.name}"))
    first, again = read_trials(workdir)  # the three paths name the checkpoint of `finished_run`, so this is its trial
    assert first["trial"] == again["trial"] and first["scores"] == again["scores"]
    assert predictions.read_bytes().startswith(truncated) and predictions.stat().st_size > len(truncated)
    assert saved.read_params(epath.Path(model))["head"]["classifier"]["kernel"].shape == (32, 2)
    assert f"warning: checkpoint: found {model}/params damaged: " in capsys.readouterr().err
    (row,) = (line for line in (workdir / "results.md").read_text().splitlines() if "@ 20 |" in line)
    assert row.startswith(f"| {tmp_path}/_a, $b$ \\| c @ 20 | ")


def test_finetune_writes_to_bucket(base_config, finished_run, bucket) -> None:
    for seeds in (1, 2):
        finetune_on(dataclasses.replace(base_config, seeds=seeds, predictions=True), epath.Path("gs://bucket/run"))
    assert len(bucket.cat("gs://bucket/run/trials.jsonl").splitlines()) == 2
    results = json.loads(bucket.cat("gs://bucket/run/results.json"))
    trials = results["checkpoints"][0]["tasks"]["sst2"]["trials"]
    assert trials[0]["metrics"] == read_tasks(finished_run)["sst2"]["trials"][0]["metrics"]
    assert bucket.cat("gs://bucket/run/submission/SST-2.tsv").count(b"\n") == 8
    assert bucket.cat("gs://bucket/run/scores.png").startswith(b"\x89PNG")


def test_select_best_keeps_best_epoch(run, no_dropout, monkeypatch) -> None:
    """Each of two parallel trials of a regression keeps the parameters, predictions and score of its best epoch."""
    epoch_scores = [(0.5, 0.8), (0.9, 0.6), (0.7, 0.7)]  # by epoch, then by trial
    values, predicted = iter(np.ravel(epoch_scores).tolist()), []

    def compute_metrics(*arguments):
        return dict.fromkeys(real_compute_metrics(*arguments), next(values))

    def predict(task_run, params, splits):
        logits = real_predict(task_run, params, splits)
        predicted.append((jax.tree.map(np.array, params), logits))
        return logits

    real_compute_metrics, real_predict = scores.compute_metrics, training.predict
    monkeypatch.setattr(scores, "compute_metrics", compute_metrics)
    monkeypatch.setattr(training, "predict", predict)
    recorded = record_training(monkeypatch)
    workdir = run(select="best", tasks=("stsb",), seeds=2, together=2, predictions=True, save_models=True)
    trials = read_tasks(workdir)["stsb"]["trials"]
    assert [trial["epoch"] for trial in trials] == [2, 1]
    assert [trial["metrics"]["validation"] for trial in trials] == [{"pearson": x, "spearman": x} for x in (0.9, 0.8)]

    ((_, outcomes, params),) = recorded
    *epochs, (test_params, test_logits) = predicted
    (model,) = workdir.glob("models/*/stsb-*")
    kept = [params, test_params]
    for number, (outcome, best_epoch) in enumerate(zip(outcomes, (1, 0), strict=True)):  # epochs from 0
        best_params, best_logits = epochs[best_epoch]
        for each in kept:
            jax.tree.map(lambda a, b, i=number: np.testing.assert_array_equal(a[i], b[i]), each, best_params)
        np.testing.assert_array_equal(outcome.logits["validation"], best_logits[number]["validation"])
        (file,) = workdir.glob(f"predictions/stsb-{outcome.result.trial.key}-*.npz")
        np.testing.assert_array_equal(np.load(file)["STS-B.tsv"], test_logits[number]["STS-B.tsv"])
        assert (best_logits[number]["validation"] != epochs[2][1][number]["validation"]).any(), "epochs do not differ"
    description = saved.read_description(epath.Path(model))
    assert (description.score, description.trial) == (90, outcomes[0].result.trial.key)
    best_params = jax.tree.map(lambda leaf: leaf[0], epochs[1][0])
    jax.tree.map(np.testing.assert_array_equal, saved.read_params(epath.Path(model)), best_params)


def score_dev(folder: Path, glue: GlueConfig, *files: str) -> float:
    """Returns the mean accuracy of a saved classifier on files of GLUE."""
    classifier, accuracies = symbert_jax.load_classifier(folder), []
    for file in files:
        lines = Path(glue.source.removeprefix("tsv:"), file).read_text().splitlines()[1:]
        *columns, labels = zip(*(line.split("\t") for line in lines), strict=True)
        texts = columns[0] if len(columns) == 1 else list(zip(*columns[1:], strict=True))
        accuracies.append(accuracy_score(labels, classifier.predict(texts)))
    return 100 * np.mean(accuracies)


def test_loaded_classifier_has_saved_score(finished_run, glue) -> None:
    (model,) = finished_run.glob("models/*/sst2-*")
    description = saved.read_description(epath.Path(model))
    assert description.length == 128, "not that of the protocol"
    assert score_dev(model, glue, "SST-2/dev.tsv") == pytest.approx(description.score)


def test_modern_encoder_learns_and_leaves_as_modernbert(run, tmp_path) -> None:
    (tmp_path / "modern").mkdir()
    config = configure(model=MODERN | {"attention": "pairwise", "length": 24}, data={"batch_size": 16})
    pretrained = write_pretrained(tmp_path / "modern", config)
    grid = {"batch_sizes": (16,), "weight_decays": (1e-5, 0.3), "together": 2}  # 0.3 removes 30% of a weight in a step
    workdir = run(checkpoint=(str(pretrained),), protocol="modernbert", save_models=True, **grid)
    task = read_tasks(workdir)["sst2"]
    assert (task["weight_decay"], task["epochs"]) == (1e-5, 3) and task["scores"]["validation"]["mean"] > 80
    accuracies = {trial["weight_decay"]: trial["metrics"]["validation"]["accuracy"] for trial in task["trials"]}
    assert accuracies[0.3] < accuracies[1e-5]
    (model,) = workdir.glob("models/*/sst2-*")
    assert saved.read_params(epath.Path(model))["head"].keys() == {"dense", "norm", "classifier"}
    export(epath.Path(model), epath.Path(tmp_path / "out"), **EXPORT_OPTIONS)
    exported = json.loads((tmp_path / "out" / "config.json").read_text())
    assert exported["architectures"] == ["ModernBertForSequenceClassification"]
    assert exported["classifier_pooling"] == "cls" and exported["num_hidden_layers"] == 4


def test_rte_starts_from_mnli_which_predicts_diagnostics(run, no_dropout, glue, monkeypatch) -> None:
    recorded = record_training(monkeypatch)
    workdir = run(tasks=("RTE", "MNLI", "ax"), from_mnli=True, seeds=2, together=2, epochs=1, length=20)
    (model,) = workdir.glob("models/*/mnli-*")
    description = saved.read_description(epath.Path(model))
    assert (description.task, description.length) == ("mnli", 20)
    assert {task_run.data.train.tokens.shape[1] for task_run, _, _ in recorded} == {20}
    dev_score = score_dev(model, glue, "MNLI/dev_matched.tsv", "MNLI/dev_mismatched.tsv")
    assert dev_score == pytest.approx(description.score)
    encoder = {part: weights for part, weights in saved.read_params(epath.Path(model)).items() if part != "head"}
    (mnli, _, _), (rte, (outcome, _), _) = recorded
    assert outcome.result.trial.checkpoint == digest(encoder) == digest(rte.encoder) != digest(mnli.encoder)
    assert not list(workdir.glob("models/*/rte-*"))
    assert set(read_tasks(workdir)["mnli"]["scores"]) == {"validation_matched", "validation_mismatched"}
    lines = (workdir / "submission/AX.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction" and len(lines) == 6
    assert {line.split("\t")[1] for line in lines[1:]} <= {"entailment", "neutral", "contradiction"}


def test_sweep_scores_every_checkpoint(run, monkeypatch, capsys) -> None:
    """Every trial has one of two numbers of epochs."""
    monkeypatch.setitem(PROTOCOLS, "paper", dataclasses.replace(PROTOCOLS["paper"], epochs=(1, 2)))
    workdir = run(checkpoint_steps=(10, 20), epochs=0)
    checkpoints = read_results(workdir)["checkpoints"]
    assert [checkpoint["step"] for checkpoint in checkpoints] == [10, 20]
    for checkpoint in checkpoints:
        assert [(trial["epochs"], trial["epoch"]) for trial in checkpoint["tasks"]["sst2"]["trials"]] == [
            (1, 1),
            (2, 2),
        ]
    assert "(4/4 trials" in capsys.readouterr().out
    assert (workdir / "sweep.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": ("nowhere",)}, "nowhere"),
        ({"checkpoint_steps": (15,)}, "no step 15"),
        ({"protocol": "papper"}, "did you mean 'paper'"),
        (
            {"tasks": ("qqp", "sst2", "mrpc")},
            "no train and validation data of mrpc, qqp in .*tasks=sst2 leaves them out",
        ),
        ({"tasks": ("sst",)}, "did you mean 'sst2'"),
        ({"length": 32}, "length: found 32, wanted at most 24, the length of the model in .*pretrained"),
        ({"length": 7}, "length: found 7, wanted at least 8, or 0 for that of the protocol"),
        ({"from_mnli": True, "tasks": ("rte",)}, "from_mnli: found True with tasks=rte, wanted mnli"),
        ({"mesh": MeshConfig(model=8)}, "model.heads: found 4, wanted a multiple of mesh.model=8"),
        ({"mesh": MeshConfig(model=3)}, "mesh: found mesh.data=-1 x mesh.model=3, wanted a product of 8"),
        ({"checkpoint": ("~nobody_here/x",)}, "checkpoint: found '~nobody_here/x'"),
        ({"checkpoint": ("",)}, "checkpoint: found '', wanted a path"),
        ({"name": "run[1]", "save_models": True}, r"workdir: found .*/run\[1\], with \[ in it, wanted"),
        ({"name": "/dev/null"}, "workdir: found /dev/null: "),
    ],
)
def test_finetune_refuses_invalid_config(run, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        run(devices=8, **changes)


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (None, "vocab.txt"),
        ("[PAD]\n", "vocab.txt"),
        ("\n".join([*SPECIAL, *map(str, range(200))]), "found a tokenizer of 205 tokens in .*, wanted at most 128"),
    ],
)
def test_finetune_refuses_unusable_vocabulary(run, pretrained, tmp_path, vocabulary, message) -> None:
    shutil.copytree(pretrained, tmp_path / "start")
    (tmp_path / "start/vocab.txt").unlink()
    if vocabulary is not None:
        (tmp_path / "start/vocab.txt").write_text(vocabulary)
    with pytest.raises(UserError, match=message):
        run(checkpoint=(f"{tmp_path}/start",))


def test_finetune_refuses_workdir_in_use(run, tmp_path) -> None:
    message = f"workdir: found {tmp_path}/run, in use by process {os.getpid()} on "
    with lock(epath.Path(tmp_path / "run"), "workdir"), pytest.raises(UserError, match=message):
        run()


def test_finetune_refuses_workdir_that_is_not_shared(run, tmp_path, monkeypatch) -> None:
    """tests/train/test_pod.py checks with several processes that `check_shared` raises."""

    def check_shared(folder: epath.Path) -> None:
        raise UserError("workdir", f"a different {folder}", "a shared one")

    monkeypatch.setattr(finetune_module, "check_shared", check_shared)
    with pytest.raises(UserError, match=f"workdir: found a different {tmp_path}/run"):
        run()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_signal_ends_finetune_with_one_line(monkeypatch, capfd, name, code) -> None:
    before = signal.getsignal(signal.Signals[name])
    exit_codes = []
    monkeypatch.setattr(os, "_exit", exit_codes.append)
    with finetune_module._exit_at_signals():
        signal.raise_signal(signal.Signals[name])
    hint = "start the same command again to train the missing trials"
    assert exit_codes == [code] and capfd.readouterr().err == f"\n{name}: {hint}\n"
    assert signal.getsignal(signal.Signals[name]) == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup sets it
    with finetune_module._exit_at_signals():
        signal.raise_signal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert exit_codes == [code]


def test_max_parallel_trials_grows_with_memory(monkeypatch) -> None:
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": self.bytes_limit}

    def find_limit(config: FinetuneConfig) -> int:
        with jax.set_mesh(sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1])):
            return finetune_module.max_parallel_trials(config, CONFIG.model, num_params=1000, batch_size=16, length=32)

    assert find_limit(FinetuneConfig(together=3)) == 3
    assert find_limit(FinetuneConfig()) == 1, "more than one on a CPU"
    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    found = []
    for bytes_limit in (0, 1e6, 1e9, 2e9):
        Device.bytes_limit = bytes_limit
        found.append(find_limit(FinetuneConfig()))
    assert found[:2] == [1, 1] and found[2] > 100 and found[3] == pytest.approx(2 * found[2], abs=1)
