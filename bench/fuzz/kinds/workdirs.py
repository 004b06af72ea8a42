"""Files that commands write and read again: workdirs, checkpoints, trials, and corpora."""

import contextlib
import dataclasses
import json
import runpy
import shutil
from pathlib import Path
from random import Random

import jax
import numpy as np
from etils import epath

from bench.fuzz.attempts import Kind, command
from bench.fuzz.kinds.inputs import PRETRAINED, write_corpus, write_glue
from bench.fuzz.mutations.files import change_folder
from symbert_jax import config as configs
from symbert_jax import metrics
from symbert_jax.checkpoint import Checkpoints, load, write_params
from symbert_jax.compare import plots
from symbert_jax.compare.reference import read_reference
from symbert_jax.compare.runs import read_run
from symbert_jax.compare.table import table_cells
from symbert_jax.config import MeshConfig, TrainConfig
from symbert_jax.data import stream
from symbert_jax.data.corpus import Corpus
from symbert_jax.eval import saved, trials
from symbert_jax.interop import export
from symbert_jax.sharding import make_mesh
from symbert_jax.train import start


class Workdirs(Kind):
    """config.json, vocab.txt and metrics.jsonl of a run."""

    suite_attempts = 12

    def make(self, folder: Path) -> None:
        shutil.copytree(PRETRAINED, folder / "run")
        write_glue(folder)

    def change(self, folder: Path, random: Random) -> list[str]:
        files = [folder / "run" / name for name in ("config.json", "vocab.txt", "metrics.jsonl")]
        return change_folder(random, folder, files)

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        workdir = epath.Path(folder) / "run"
        match random.randrange(12):
            case 0:
                command("compare", "--out=out", "--fill=the [MASK]", "run", history=history)
            case 1:
                command("finetune", "--config=glue.py", "--workdir=out", history=history)
            case 2 | 3:
                history.append("metrics.Metrics: a run continues")
                metrics.Metrics(workdir, step=20, wandb="").close()
            case 4 | 5:
                history.append("config.read")
                configs.read(workdir)
            case 6:
                command("fill", "--checkpoint=run", "the [MASK]", history=history)
            case 7:
                history.append("export.read")
                export.read(workdir, step=None)
            case _:
                history.append("compare: read_run and table_cells")
                run = read_run(workdir, "run")
                table_cells([run, run])


class ReferenceCurves(Kind):
    """The curves that `--reference` of `compare` names, with a run of another length."""

    suite_attempts = 15

    def make(self, folder: Path) -> None:
        shutil.copytree(PRETRAINED, folder / "run")
        (folder / "curves.csv").write_text("step,standard,ours\n10,6.5,\n20,6,5.5\n400,5,4.5\n")

    def change(self, folder: Path, random: Random) -> list[str]:
        return change_folder(random, folder, [folder / "curves.csv"])

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        history.append("compare: read_reference and plot_losses")
        plots.plot_losses([read_run(epath.Path(folder) / "run", "run")], read_reference("curves.csv"))


class Trials(Kind):
    """The trials.jsonl and a model of a workdir of `finetune`; one of them is changed."""

    suite_attempts = 20

    def make(self, folder: Path) -> None:
        trial = trials.Trial(
            checkpoint="0" * 64,
            data="1" * 64,
            task="rte",
            batch_size=16,
            learning_rate=1e-5,
            seed=0,
            protocol='{"epochs": 5}',
        )
        log = trials.TrialLog(epath.Path(folder), is_writer=True)
        for seed in range(4):
            seeded = dataclasses.replace(trial, seed=seed)
            scores = {"validation": {"accuracy": 0.5 + seed / 10}}
            log.add([trials.TrialResult(seeded, scores, collapsed=False, epoch=2, seconds=1.5)])
        config = configs.read(epath.Path(PRETRAINED))
        description = {"score": 70.0, "task": "rte", "model": dataclasses.asdict(config.model), "trial": trial.key}
        model = folder / "model"
        model.mkdir()
        (model / saved.DESCRIPTION).write_text(json.dumps(description))
        shutil.copyfile(PRETRAINED / "vocab.txt", model / "vocab.txt")
        write_params(epath.Path(model / saved.PARAMS), load(PRETRAINED, step=40)[0])

    def reset(self) -> None:
        self.changes_model = True

    def change(self, folder: Path, random: Random) -> list[str]:
        self.changes_model = random.random() < 0.5
        files = [folder / "model" / saved.DESCRIPTION] * 3 + sorted((folder / "model" / saved.PARAMS).rglob("*"))
        return change_folder(random, folder, files if self.changes_model else [folder / trials.FILE])

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        if self.changes_model:
            history.append("export.read of a saved model")
            max(saved.read_description(epath.Path(folder) / "model").score, 50.0)  # `finetune` compares scores
            export.read(epath.Path(folder) / "model", step=None)
            return
        log = trials.TrialLog(epath.Path(folder), is_writer=random.random() < 0.5)
        max(log.results.values(), key=lambda result: result.score, default=None)
        log.add([*log.results.values()])


class CheckpointFiles(Kind):
    """The files of a checkpoint, which `fill` and a run that continues read."""

    suite_attempts = 10

    def reset(self) -> None:
        self.step_flag: list[str] = []  # empty: none

    def make(self, folder: Path) -> None:
        shutil.copytree(PRETRAINED, folder / "run")
        shutil.copytree(folder / "run" / "checkpoints" / "40", folder / "run" / "checkpoints" / "20")

    def change(self, folder: Path, random: Random) -> list[str]:
        self.step_flag = random.choice(([], [], ["--step=40"], ["--step=20"], ["--step=50"]))
        checkpoint = folder / "run" / "checkpoints" / random.choice(("20", "40", "40"))
        match random.randrange(8):
            case 0:
                removed = random.choice([path for path in sorted(checkpoint.rglob("*")) if path.is_dir()])
                shutil.rmtree(removed)
                return [f"{removed.relative_to(folder)} removed"]
            case 1:
                name = random.choice(("50", "x", "40.orbax-checkpoint-tmp-1", "-1", "007", "9" * 30, "\u0663", "40 "))
                (checkpoint.parent / name).mkdir()
                return [f"an empty folder {name}"]
            case 2:
                (checkpoint.parent / random.choice(("50", "x"))).write_text("x")
                return ["a file among the checkpoints"]
        return change_folder(random, checkpoint)

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        if random.random() < 0.6:
            command("fill", "--checkpoint=run", *self.step_flag, "the [MASK]", history=history)
            return
        history.append("start.restore")
        config = configs.read(epath.Path(PRETRAINED))
        checkpoints = Checkpoints(epath.Path(folder) / "run", TrainConfig())
        with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])), contextlib.closing(checkpoints):
            start.restore(config, checkpoints)


class CorpusFiles(Kind):
    """The files of a corpus, which `doctor` and the training stream read."""

    suite_attempts = 12

    def make(self, folder: Path) -> None:
        write_corpus(folder)

    def change(self, folder: Path, random: Random) -> list[str]:
        return change_folder(random, folder / "corpus")

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        if random.random() < 0.4:
            command("doctor", "--config=tiny.py", "--workdir=new", history=history)
            return
        history.append("stream.open_stream and batches")
        config = configs.freeze(runpy.run_path("tiny.py")["get_config"]())
        corpus = Corpus(config.data.dir)
        batches = stream.open_stream(config, corpus, np.arange(8))
        batches.batch(0)
        assert corpus.fingerprint
        for _ in batches.validation_batches(2):
            pass
