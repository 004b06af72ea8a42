"""What fine-tuning reads: the examples of every task, tokenised once for all checkpoints of the same tokenizer."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from etils import epath

from symbert_jax.config import FinetuneConfig, ModelConfig
from symbert_jax.data import tokenizer
from symbert_jax.errors import UserError
from symbert_jax.eval.batches import Examples, encode
from symbert_jax.eval.examples import Source
from symbert_jax.eval.protocols import Protocol
from symbert_jax.eval.tasks import Split, Task


class TaskData(NamedTuple):
    """A task's examples, tokenised."""

    train: Examples
    validation: dict[str, Examples]  # by the name of the split
    test: dict[str, Examples]  # what is to be predicted besides, by the name of the file for the GLUE server

    def fingerprint(self) -> str:
        """A SHA-256 of all that decides a score."""
        return _sha256([self.train, *self.validation.values()])

    def test_fingerprint(self) -> str:
        """A SHA-256 of all that is to be predicted besides."""
        return _sha256(self.test.values())


def _sha256(parts: Iterable[Examples]) -> str:
    return hashlib.sha256("".join(part.fingerprint for part in parts).encode()).hexdigest()


def read_all(
    config: FinetuneConfig, protocol: Protocol, tasks: Sequence[Task], models: Mapping[epath.Path, ModelConfig]
) -> dict[epath.Path, dict[Task, TaskData]]:
    """For every pretraining workdir the data of each of `tasks` that has a model of its own.

    models: the model of each workdir.

    Raises:
      UserError: a task has no data, or damaged data, or a workdir has no vocabulary that fits its model.
    """
    source, trained = Source(config.glue.source), [task for task in tasks if not task.predicted_by]
    _check_complete(source, trained)

    def read(task: Task, built: tokenizer.Tokenizer, length: int) -> TaskData:
        def examples(task: Task, split: Split, labelled: bool) -> Examples:
            return encode(built, source.read(task, split, labelled=labelled), length)

        # its model also predicts those of the tasks that have none
        predicted = [task] * config.predictions + [other for other in tasks if other.predicted_by == task.name]
        return TaskData(
            examples(task, task.train, labelled=True),
            {split.name: examples(task, split, labelled=True) for split in task.validation},
            {split.server: examples(each, split, labelled=False) for each in predicted for split in each.test},
        )

    shared: dict[tuple[tokenizer.WordPiece, int], dict[Task, TaskData]] = {}
    found = {}
    for workdir, model in models.items():
        wordpiece, length = tokenizer.read_for_model(workdir, model.vocab_size), min(protocol.length, model.length)
        if (wordpiece, length) not in shared:
            built = wordpiece.build(parse_special=False)
            shared[wordpiece, length] = {task: read(task, built, length) for task in trained}
        found[workdir] = shared[wordpiece, length]
    return found


def _check_complete(source: Source, tasks: Sequence[Task]) -> None:
    """Raises `UserError` with the names of all tasks that have no data."""
    complete = [task for task in tasks if all(source.has(task, split) for split in (task.train, *task.validation))]
    if lacking := [task.name for task in tasks if task not in complete]:
        hint = f"--config.tasks={','.join(task.name for task in complete)} leaves them out" if complete else ""
        found = f"no train and validation data of {', '.join(lacking)} in {source.name}"
        raise UserError("glue.source", found, "some of every task", hint)
