"""The files of a fine-tuning run: results of trials, predictions, the best models, and those for the GLUE server."""

import io
import json
import math
import sys
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from etils import epath

from symbert_jax.config import ModelConfig
from symbert_jax.distributed import is_main_process, same_on_all_processes
from symbert_jax.errors import UserError
from symbert_jax.eval import report, saved, scores
from symbert_jax.eval.inputs import TaskData
from symbert_jax.eval.tasks import TASKS, Task
from symbert_jax.eval.training import Logits, TrialOutcome
from symbert_jax.eval.trials import Log, Result, Trial
from symbert_jax.model.tree import Params
from symbert_jax.storage import write_whole


class Workdir:
    """The main process alone writes; every process takes part in the parameters of a model."""

    def __init__(self, path: epath.Path):
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.writes = path, is_main_process()
        self.log = Log(path, write=self.writes)

    def is_finished(self, trial: Trial, data: TaskData, best_score: float) -> bool:
        """Whether a trial has left all that the run needs: its result, its predictions, and a model at least as good.

        best_score: of the saved model; infinity where none is kept.
        """
        if trial not in self.log.results or best_score < self.log.results[trial].score:
            return False
        return not data.test or self.read_predictions(trial, data) is not None

    def predictions_file(self, trial: Trial, data: TaskData) -> epath.Path:
        return self.path / "predictions" / f"{trial.task}-{trial.key}-{data.test_fingerprint()[:8]}.npz"

    def write_predictions(self, outcomes: Sequence[TrialOutcome], data: TaskData) -> None:
        """Writes the logits of the test splits, a file for each trial."""
        if not (data.test and self.writes):
            return
        for result, logits in outcomes:
            file = self.predictions_file(result.trial, data)
            file.parent.mkdir(exist_ok=True)
            buffer = io.BytesIO()
            np.savez(buffer, **{name: logits[name] for name in data.test})  # type: ignore[arg-type]
            write_whole(file, buffer.getvalue())

    def read_predictions(self, trial: Trial, data: TaskData) -> Logits | None:
        """The logits of the test splits; None where they are missing or damaged."""
        file, outputs = self.predictions_file(trial, data), TASKS[trial.task].outputs
        if not file.exists():
            return None
        wanted = {name: ((len(part), outputs), np.dtype(np.float32)) for name, part in data.test.items()}
        try:
            found = dict(np.load(io.BytesIO(file.read_bytes())).items())
            is_whole = {name: (array.shape, array.dtype) for name, array in found.items()} == wanted
        except Exception:  # the exceptions of a damaged archive have no type in common
            return None
        return found if is_whole else None

    def model_folder(self, checkpoint: str, base_trial: Trial) -> epath.Path:
        """The folder of a task's best model; another protocol or other data have a folder of their own.

        checkpoint: SHA-256 of the pretrained encoder.
        """
        return self.path / "models" / checkpoint[:8] / f"{base_trial.task}-{base_trial.key[:8]}"

    def saved_score(self, folder: epath.Path) -> float:
        """The score of the saved model in a folder, the same on every process; minus infinity if none is intact."""
        score = -math.inf
        try:
            with same_on_all_processes() as facts:
                if saved.is_saved(folder):
                    score = saved.describe(folder).score
                    saved.read(folder)  # raises if the parameters are damaged
                facts["saved model"] = score
        except UserError as error:
            if self.writes:
                print(f"warning: {error}; it trains again", file=sys.stderr)
            return -math.inf
        return score

    def save_if_better(
        self,
        folder: epath.Path,
        best_score: float,
        outcomes: Sequence[TrialOutcome],
        params: Params,
        model: ModelConfig,
        vocabulary: epath.Path,
    ) -> float:
        """Saves the best of several models unless the saved one, with `best_score`, is at least as good.

        params: with a leading dimension of trials. vocabulary: the vocab.txt of the model.

        Returns the score of the model that is saved now.
        """
        best = max(range(len(outcomes)), key=lambda i: outcomes[i].result.score)
        result = outcomes[best].result
        if result.score <= best_score:
            return best_score
        length = json.loads(result.trial.protocol)["length"]
        described = saved.Saved(result.score, result.trial.task, model, result.trial.key, length)
        saved.write(folder, described, jax.tree.map(lambda leaf: leaf[best], params), vocabulary, self.writes)
        return result.score

    def write_submission(self, results: Mapping[Task, Sequence[Result]], datasets: Mapping[Task, TaskData]) -> None:
        """Writes the files for the GLUE server, from the best trial of each task.

        Raises:
          UserError: predictions are missing or damaged that were intact before.
        """
        owners = {split.server: task for task in TASKS.values() for split in task.test}
        for task, found in results.items():
            if not datasets[task].test:
                continue
            best = max(found, key=lambda result: result.score)
            predictions = self.read_predictions(best.trial, datasets[task])
            if predictions is None:
                file = self.predictions_file(best.trial, datasets[task])
                hint = "start the same command again"
                raise UserError("workdir", f"no predictions in {file}", "those of this run", hint)
            folder = self.path / "submission"
            folder.mkdir(exist_ok=True)
            for name, logits in predictions.items():
                answers = scores.decide(owners[name], logits)
                write_whole(folder / name, report.submission(owners[name], answers))
