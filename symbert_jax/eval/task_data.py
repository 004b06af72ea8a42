"""The data of every task, tokenized once for all checkpoints with the same tokenizer and length."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from etils import epath

from symbert_jax.config import FinetuneConfig, ModelConfig
from symbert_jax.data.tokenizer import TextTokenizer, read_for_model
from symbert_jax.errors import UserError
from symbert_jax.eval.batches import TokenizedSplit, tokenize
from symbert_jax.eval.examples import Source
from symbert_jax.eval.protocols import Protocol
from symbert_jax.eval.tasks import Split, Task


class TaskData(NamedTuple):
    """The splits of a task."""

    train: TokenizedSplit
    validation: dict[str, TokenizedSplit]  # by the name of the split
    # By the name of the file for the GLUE server: the test splits of the tasks that this task's model predicts, and its
    # own if `config.predictions` is set.
    test: dict[str, TokenizedSplit]

    def fingerprint(self) -> str:
        """Returns a SHA-256 of the training and validation splits, which decide a score."""
        return _sha256([self.train, *self.validation.values()])

    def test_fingerprint(self) -> str:
        """Returns a SHA-256 of the test splits."""
        return _sha256(self.test.values())


def _sha256(splits: Iterable[TokenizedSplit]) -> str:
    return hashlib.sha256("".join(split.fingerprint for split in splits).encode()).hexdigest()


def read_task_data(
    config: FinetuneConfig, protocol: Protocol, tasks: Sequence[Task], model_configs: Mapping[epath.Path, ModelConfig]
) -> dict[epath.Path, dict[Task, TaskData]]:
    """Returns, for every pretraining workdir, the data of each task that has training data.

    model_configs: the model config of each workdir.

    Raises:
      UserError: the data of a task is missing or damaged, a workdir has no vocabulary that fits its model, or
        `config.length` is more than a model reads.
    """
    for workdir, model in model_configs.items():
        if config.length > model.length:
            wanted = f"at most {model.length}, the length of the model in {workdir}"
            raise UserError("length", str(config.length), wanted, "`pretrain` with init_from lengthens a model")
    source, trainable_tasks = Source(config.glue.source), [task for task in tasks if not task.predicted_by]
    _check_complete(source, trainable_tasks)

    def read(task: Task, tokenizer: TextTokenizer, length: int) -> TaskData:
        encoder = tokenizer.build(parse_special=False)

        def read_split(task: Task, split: Split, labelled: bool) -> TokenizedSplit:
            return tokenize(encoder, tokenizer.pad_id, source.read(task, split, labelled=labelled), length)

        tested_tasks = [task] * config.predictions + [other for other in tasks if other.predicted_by == task.name]
        return TaskData(
            read_split(task, task.train, labelled=True),
            {split.name: read_split(task, split, labelled=True) for split in task.validation},
            {split.submission: read_split(each, split, labelled=False) for each in tested_tasks for split in each.test},
        )

    # workdirs with the same tokenizer and length share their data
    shared: dict[tuple[TextTokenizer, int], dict[Task, TaskData]] = {}
    data = {}
    for workdir, model in model_configs.items():
        tokenizer, length = read_for_model(workdir, model.vocab_size), min(protocol.length, model.length)
        if (tokenizer, length) not in shared:
            shared[tokenizer, length] = {task: read(task, tokenizer, length) for task in trainable_tasks}
        data[workdir] = shared[tokenizer, length]
    return data


def _check_complete(source: Source, tasks: Sequence[Task]) -> None:
    """Raises `UserError` with the names of all tasks that lack training or validation data."""
    complete = [task for task in tasks if all(source.has(task, split) for split in (task.train, *task.validation))]
    if missing := [task.name for task in tasks if task not in complete]:
        hint = f"--config.tasks={','.join(task.name for task in complete)} leaves them out" if complete else ""
        found = f"no train and validation data of {', '.join(missing)} in {source.name}"
        raise UserError("glue.source", found, "train and validation data of every task", hint)
