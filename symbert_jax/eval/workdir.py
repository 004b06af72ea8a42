"""The files of a fine-tuning run: results of trials, predictions, the best models, and submissions to the GLUE server.

Only the main process writes, except for the parameters of a model, which all processes write together.
"""

import io
import json
import math
import sys
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from etils import epath

from symbert_jax.config import ModelConfig
from symbert_jax.distributed import is_main_process, same_on_all_processes, wait_for_all
from symbert_jax.errors import UserError
from symbert_jax.eval import report, saved, scores
from symbert_jax.eval.saved import SavedModel
from symbert_jax.eval.task_data import TaskData
from symbert_jax.eval.tasks import TASKS, Task
from symbert_jax.eval.training import Logits, TrialOutcome
from symbert_jax.eval.trials import Trial, TrialLog, TrialResult
from symbert_jax.model.tree import Params
from symbert_jax.storage import write_whole


class Workdir:
    """The folder of a fine-tuning run."""

    def __init__(self, path: epath.Path):
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.is_writer = path, is_main_process()
        self.log = TrialLog(path, is_writer=self.is_writer)

    def model_folder(self, pretrained_sha256: str, base_trial: Trial) -> epath.Path:
        """Returns the folder of a task's best model. Another protocol or other data lead to another folder.

        pretrained_sha256: of the parameters of the pretrained encoder.
        base_trial: has the fields that all trials of the task share.
        """
        return self.path / "models" / pretrained_sha256[:8] / f"{base_trial.task}-{base_trial.key[:8]}"

    def predictions_file(self, trial: Trial, data: TaskData) -> epath.Path:
        """Returns the file of a trial's logits on the test splits."""
        return self.path / "predictions" / f"{trial.task}-{trial.key}-{data.test_fingerprint()[:8]}.npz"

    def write_predictions(self, outcomes: Sequence[TrialOutcome], data: TaskData) -> None:
        """Writes the logits of the test splits, if there are any, to a file for each trial."""
        if not (data.test and self.is_writer):
            return
        for result, logits in outcomes:
            file = self.predictions_file(result.trial, data)
            file.parent.mkdir(exist_ok=True)
            buffer = io.BytesIO()
            np.savez(buffer, **{name: logits[name] for name in data.test})  # type: ignore[arg-type]
            write_whole(file, buffer.getvalue())

    def read_predictions(self, trial: Trial, data: TaskData) -> Logits | None:
        """Returns the logits of the test splits, or None if they are missing or damaged."""
        file, num_outputs = self.predictions_file(trial, data), TASKS[trial.task].num_outputs
        if not file.exists():
            return None
        wanted = {name: ((len(split), num_outputs), np.dtype(np.float32)) for name, split in data.test.items()}
        try:
            logits = dict(np.load(io.BytesIO(file.read_bytes())).items())
            is_whole = {name: (array.shape, array.dtype) for name, array in logits.items()} == wanted
        except Exception:  # the exceptions of a damaged archive have no type in common
            return None
        return logits if is_whole else None

    def write_submission(self, results: Mapping[Task, Sequence[TrialResult]], data: Mapping[Task, TaskData]) -> None:
        """Writes the files for the GLUE server, from the best trial of each task.

        Raises:
          UserError: the predictions of a best trial are missing or damaged.
        """
        tasks_by_file = {split.submission: task for task in TASKS.values() for split in task.test}
        for task, task_results in results.items():
            if not data[task].test:
                continue
            best = max(task_results, key=lambda result: result.score)
            logits = self.read_predictions(best.trial, data[task])
            if logits is None:
                file = self.predictions_file(best.trial, data[task])
                hint = "start the same command again"
                raise UserError("workdir", f"no predictions in {file}", "those of this run", hint)
            folder = self.path / "submission"
            folder.mkdir(exist_ok=True)
            for name, split_logits in logits.items():
                predictions = scores.to_predictions(tasks_by_file[name], split_logits)
                write_whole(folder / name, report.format_submission(tasks_by_file[name], predictions))


class TaskFiles:
    """The files of a task on one checkpoint.

    A trial is finished when the workdir contains everything that the run needs of it: its result, its predictions if
    there are test splits, and, if models are saved, a model that is at least as good.
    """

    def __init__(self, workdir: Workdir, data: TaskData, model_folder: epath.Path | None):
        """model_folder: the folder of the task's best model; None if no model is saved. Call on all processes."""
        self.workdir, self.data, self.model_folder = workdir, data, model_folder
        self.best_score = math.inf if model_folder is None else _read_saved_score(model_folder)

    def is_finished(self, trial: Trial) -> bool:
        result = self.workdir.log.results.get(trial)
        if result is None or result.score > self.best_score:
            return False
        return not self.data.test or self.workdir.read_predictions(trial, self.data) is not None

    def add(self, outcomes: Sequence[TrialOutcome], params: Params, model: ModelConfig, tokenizer: epath.Path) -> None:
        """Writes everything that `is_finished` looks for. Call on all processes.

        params: with a leading dimension R. tokenizer: the path of the model's tokenizer.
        """
        self.workdir.write_predictions(outcomes, self.data)
        self._save_if_better(outcomes, params, model, tokenizer)
        wait_for_all("models and predictions")  # the next task may start from the model
        # results come last, so that a kill leaves no result without its files
        self.workdir.log.add([outcome.result for outcome in outcomes])

    def _save_if_better(
        self, outcomes: Sequence[TrialOutcome], params: Params, model: ModelConfig, tokenizer: epath.Path
    ) -> None:
        best = max(range(len(outcomes)), key=lambda i: outcomes[i].result.score)
        result = outcomes[best].result
        if self.model_folder is None or result.score <= self.best_score:
            return
        length = json.loads(result.trial.protocol)["length"]
        description = SavedModel(result.score, result.trial.task, model, result.trial.key, length)
        saved.write(self.model_folder, description, jax.tree.map(lambda leaf: leaf[best], params), tokenizer)
        self.best_score = result.score


def _read_saved_score(folder: epath.Path) -> float:
    """Returns the score of a saved model, the same on all processes; minus infinity if it is missing or damaged."""
    score = -math.inf
    try:
        with same_on_all_processes() as facts:
            if saved.is_saved(folder):
                score = saved.read_description(folder).score
                saved.read_params(folder)  # raises if the parameters are damaged
            facts["saved model"] = score
    except UserError as error:
        if is_main_process():
            print(f"warning: {error}; the trials of its task are trained again", file=sys.stderr)
        return -math.inf
    return score
