"""The tasks of GLUE (Wang et al., 2018): what their files hold and how they are scored.

This table is all that the code knows of any single task. Field names are those of the standard TSV files
(first name) and of the TFDS dataset `glue` (second name), file names those of the standard folders.
"""

import dataclasses
from collections.abc import Iterable

from symbert_jax.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Split:
    """A part of a task's data under the name that TFDS gives it."""

    name: str
    files: tuple[str, ...]  # in the task's folder; the first that is there counts
    title: str = ""  # what tells it from the task's other parts in a report
    server: str = ""  # the file that the GLUE server takes of it; empty for labelled splits


@dataclasses.dataclass(frozen=True)
class Task:
    name: str
    folders: tuple[str, ...]
    texts: tuple[tuple[str, str], ...]  # the sentence or the two, each with both its field names
    label: str  # the TSV field; TFDS calls it "label"
    classes: tuple[str, ...]  # as the TSV files write them, in the order of their ids; none is a regression
    metrics: tuple[str, ...]  # of eval/scores.py; a task's score is their mean
    validation: tuple[Split, ...] = (Split("validation", ("dev.tsv",)),)
    test: tuple[Split, ...] = ()
    train: Split = Split("train", ("train.tsv",))
    header: tuple[str, ...] = ()  # the fields of labelled files that have no header line
    broken_rows: bool = False  # whether rows with too few columns are known of and left out, as everybody does
    predicted_by: str = ""  # the task whose model predicts this one, where it has no training data
    init_from: str = ""  # the task whose model it may start from
    in_paper_mean: bool = True  # whether the paper's mean counts it

    @property
    def outputs(self) -> int:
        """C: the number of classes, 1 for a regression."""
        return len(self.classes) or 1


def _test(server: str) -> tuple[Split, ...]:
    return (Split("test", ("test.tsv",), server=server),)


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
            test=_test("CoLA.tsv"),
            header=("source", "label", "mark", "sentence"),
        ),
        Task(
            name="sst2",
            folders=("SST-2",),
            texts=(("sentence", "sentence"),),
            label="label",
            classes=("0", "1"),
            metrics=("accuracy",),
            test=_test("SST-2.tsv"),
        ),
        Task(
            name="mrpc",
            folders=("MRPC",),
            texts=(("#1 String", "sentence1"), ("#2 String", "sentence2")),
            label="Quality",
            classes=("0", "1"),
            metrics=("accuracy", "f1"),
            # the corpus as Microsoft published it has a labelled test set and no dev set
            train=Split("train", ("train.tsv", "msr_paraphrase_train.txt")),
            validation=(Split("validation", ("dev.tsv", "msr_paraphrase_test.txt")),),
            test=(Split("test", ("test.tsv", "msr_paraphrase_test.txt"), server="MRPC.tsv"),),
            init_from="mnli",
        ),
        Task(
            name="qqp",
            folders=("QQP",),
            texts=(("question1", "question1"), ("question2", "question2")),
            label="is_duplicate",
            classes=("0", "1"),
            metrics=("accuracy", "f1"),
            test=_test("QQP.tsv"),
            broken_rows=True,
        ),
        Task(
            name="stsb",
            folders=("STS-B",),
            texts=_PAIR,
            label="score",
            classes=(),
            metrics=("pearson", "spearman"),
            test=_test("STS-B.tsv"),
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
                Split("validation_matched", ("dev_matched.tsv",), "matched"),
                Split("validation_mismatched", ("dev_mismatched.tsv",), "mismatched"),
            ),
            test=(
                Split("test_matched", ("test_matched.tsv",), "matched", "MNLI-m.tsv"),
                Split("test_mismatched", ("test_mismatched.tsv",), "mismatched", "MNLI-mm.tsv"),
            ),
        ),
        Task(
            name="qnli",
            folders=("QNLI",),
            texts=(("question", "question"), ("sentence", "sentence")),
            label="label",
            classes=_ENTAILMENT,
            metrics=("accuracy",),
            test=_test("QNLI.tsv"),
        ),
        Task(
            name="rte",
            folders=("RTE",),
            texts=_PAIR,
            label="label",
            classes=_ENTAILMENT,
            metrics=("accuracy",),
            test=_test("RTE.tsv"),
            init_from="mnli",
        ),
        Task(
            name="wnli",
            folders=("WNLI",),
            texts=_PAIR,
            label="label",
            classes=("0", "1"),
            metrics=("accuracy",),
            test=_test("WNLI.tsv"),
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
            test=(Split("test", ("AX.tsv", "diagnostic.tsv"), server="AX.tsv"),),
            predicted_by="mnli",
            in_paper_mean=False,
        ),
    )
}


def find(names: Iterable[str]) -> list[Task]:
    """The tasks of these names in the order of the table, each once; `SST-2` is `sst2`.

    Raises:
      UserError: a name is none of a task, or a task lacks the one whose model it needs.
    """
    wanted = {name.lower().replace("-", "").replace("_", "") for name in names}
    for name in sorted(wanted - TASKS.keys()):
        raise UserError("tasks", repr(name), f"some of {', '.join(TASKS)}", did_you_mean(name, TASKS))
    found = [task for task in TASKS.values() if task.name in wanted]
    for task in found:
        if task.predicted_by and task.predicted_by not in wanted:
            wanted_both = f"both: {task.predicted_by}'s model predicts it"
            raise UserError("tasks", f"{task.name} without {task.predicted_by}", wanted_both)
    if not found:
        raise UserError("tasks", "none", f"some of {', '.join(TASKS)}")
    return found
