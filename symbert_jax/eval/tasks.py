"""The tasks of GLUE (Wang et al., 2018): their files, their fields, their classes and their metrics.

The names of files, folders and fields are those of GLUE's published TSV files, unless a comment names TFDS.
"""

import dataclasses
from collections.abc import Iterable

from symbert_jax.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Split:
    """A part of a task's data."""

    name: str  # as in TFDS
    files: tuple[str, ...]  # in the task's folder; the first that exists is read
    title: str = ""  # distinguishes the splits of a task that has several validation or test splits
    submission: str = ""  # the name of the file that the GLUE server expects for a test split


@dataclasses.dataclass(frozen=True)
class Task:
    name: str
    folders: tuple[str, ...]  # names that its folder may have; reports use the first
    texts: tuple[tuple[str, str], ...]  # the fields of one sentence or two, each as (in TSV, in TFDS)
    label: str  # the field of the label in TSV; in TFDS the field is always "label"
    classes: tuple[str, ...]  # as in the TSV files, in the order of their ids; empty for a regression
    metrics: tuple[str, ...]  # names in eval/scores.py; the score of a split is the mean of its metrics
    validation: tuple[Split, ...] = (Split("validation", ("dev.tsv",)),)
    test: tuple[Split, ...] = ()
    train: Split = Split("train", ("train.tsv",))
    header: tuple[str, ...] = ()  # the fields of labelled files, if these have no header line
    has_short_rows: bool = False  # labelled files contain rows with too few columns, which are skipped
    predicted_by: str = ""  # the task whose model predicts this one; empty if this one has training data
    init_from: str = ""  # the task whose model this one starts from if `config.from_mnli` is set
    in_paper_mean: bool = True  # whether its scores count in the paper's mean

    @property
    def num_outputs(self) -> int:
        """C: the number of classes, 1 for a regression."""
        return len(self.classes) or 1


def _test_split(submission: str) -> tuple[Split, ...]:
    return (Split("test", ("test.tsv",), submission=submission),)


_PAIR = (("sentence1", "sentence1"), ("sentence2", "sentence2"))
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")

TASKS = {
    task.name: task
    for task in (
        Task(
            name="cola",
            folders=("CoLA",),
            texts=(("sentence", "sentence"),),
            label="label",
            classes=("0", "1"),
            metrics=("matthews",),
            test=_test_split("CoLA.tsv"),
            header=("source", "label", "mark", "sentence"),
        ),
        Task(
            name="sst2",
            folders=("SST-2",),
            texts=(("sentence", "sentence"),),
            label="label",
            classes=("0", "1"),
            metrics=("accuracy",),
            test=_test_split("SST-2.tsv"),
        ),
        Task(
            name="mrpc",
            folders=("MRPC",),
            texts=(("#1 String", "sentence1"), ("#2 String", "sentence2")),
            label="Quality",
            classes=("0", "1"),
            metrics=("accuracy", "f1"),
            # Microsoft's own files have no dev set; their test set is labelled and stands in for it.
            train=Split("train", ("train.tsv", "msr_paraphrase_train.txt")),
            validation=(Split("validation", ("dev.tsv", "msr_paraphrase_test.txt")),),
            test=(Split("test", ("test.tsv", "msr_paraphrase_test.txt"), submission="MRPC.tsv"),),
            init_from="mnli",
        ),
        Task(
            name="qqp",
            folders=("QQP",),
            texts=(("question1", "question1"), ("question2", "question2")),
            label="is_duplicate",
            classes=("0", "1"),
            metrics=("accuracy", "f1"),
            test=_test_split("QQP.tsv"),
            has_short_rows=True,
        ),
        Task(
            name="stsb",
            folders=("STS-B",),
            texts=_PAIR,
            label="score",
            classes=(),
            metrics=("pearson", "spearman"),
            test=_test_split("STS-B.tsv"),
            init_from="mnli",
        ),
        Task(
            name="mnli",
            folders=("MNLI",),
            texts=(("sentence1", "premise"), ("sentence2", "hypothesis")),
            label="gold_label",
            classes=_NLI,
            metrics=("accuracy",),
            validation=(
                Split("validation_matched", ("dev_matched.tsv",), title="matched"),
                Split("validation_mismatched", ("dev_mismatched.tsv",), title="mismatched"),
            ),
            test=(
                Split("test_matched", ("test_matched.tsv",), title="matched", submission="MNLI-m.tsv"),
                Split("test_mismatched", ("test_mismatched.tsv",), title="mismatched", submission="MNLI-mm.tsv"),
            ),
        ),
        Task(
            name="qnli",
            folders=("QNLI",),
            texts=(("question", "question"), ("sentence", "sentence")),
            label="label",
            classes=_ENTAILMENT,
            metrics=("accuracy",),
            test=_test_split("QNLI.tsv"),
        ),
        Task(
            name="rte",
            folders=("RTE",),
            texts=_PAIR,
            label="label",
            classes=_ENTAILMENT,
            metrics=("accuracy",),
            test=_test_split("RTE.tsv"),
            init_from="mnli",
        ),
        Task(
            name="wnli",
            folders=("WNLI",),
            texts=_PAIR,
            label="label",
            classes=("0", "1"),
            metrics=("accuracy",),
            test=_test_split("WNLI.tsv"),
            in_paper_mean=False,
        ),
        Task(
            name="ax",
            folders=("AX", "diagnostic"),
            texts=(("sentence1", "premise"), ("sentence2", "hypothesis")),
            label="label",
            classes=_NLI,
            metrics=(),
            validation=(),
            test=(Split("test", ("AX.tsv", "diagnostic.tsv"), submission="AX.tsv"),),
            predicted_by="mnli",
            in_paper_mean=False,
        ),
    )
}


def find_tasks(names: Iterable[str]) -> list[Task]:
    """Returns the tasks with these names in the order of the table, each once. `SST-2` and `sst_2` mean `sst2`.

    Raises:
      UserError: a name is unknown, there are no names, or a task is named without the task whose model predicts it.
    """
    normalized = {name.lower().replace("-", "").replace("_", "") for name in names}
    for name in sorted(normalized - TASKS.keys()):
        raise UserError("tasks", repr(name), f"some of {', '.join(TASKS)}", did_you_mean(name, TASKS))
    tasks = [task for task in TASKS.values() if task.name in normalized]
    for task in tasks:
        if task.predicted_by and task.predicted_by not in normalized:
            found = f"{task.name} without {task.predicted_by}"
            raise UserError("tasks", found, f"both: {task.predicted_by}'s model predicts {task.name}")
    if not tasks:
        raise UserError("tasks", "none", f"some of {', '.join(TASKS)}")
    return tasks
