"""GLUE, from TSV files and from TFDS."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import tensorflow_datasets as tfds

from bench.fuzz.attempts import Kind
from bench.fuzz.mutations.files import change_folder
from symbert_jax.eval.examples import Source
from symbert_jax.eval.tasks import TASKS


class GlueFiles(Kind):
    """The TSV files of GLUE; the files of one task are changed and read."""

    suite_attempts = 15

    def make(self, folder: Path) -> None:
        for task in TASKS.values():
            label = task.classes[0] if task.classes else "2.5"
            texts = [name for name, _ in task.texts]
            for split in (task.train, *task.validation, *task.test):
                header = task.header or ("index", *texts, task.label)
                if split in task.test:
                    # the test set of MRPC has labels: it may come from msr_paraphrase_test.txt, which has them
                    header = ("index", *texts, *[task.label] * ("msr" in split.files[-1]))
                fields = {name: f"the {name} cat" for name in header} | {"index": "0"} | {task.label: label}
                lines = [header] * (not task.header or split in task.test) + [[fields[name] for name in header]] * 4
                path = folder / task.folders[0] / split.files[0]
                path.parent.mkdir(exist_ok=True)
                path.write_text("".join("\t".join(line) + "\n" for line in lines))

    def reset(self) -> None:
        self.task = TASKS["mnli"]

    def change(self, folder: Path, random: Random) -> list[str]:
        self.task = random.choice([*TASKS.values()])
        splits = (self.task.train, *self.task.validation, *self.task.test)
        files = [folder / self.task.folders[0] / split.files[0] for split in splits]
        return change_folder(random, folder, [path for path in files if path.exists()])

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        source = Source("tsv:.")
        for split in (self.task.train, *self.task.validation) if self.task.validation else ():
            source.has(self.task, split)
            source.read(self.task, split, labelled=True)
        for split in self.task.test:
            source.read(self.task, split, labelled=False)


class GlueDatasets(Kind):
    """A task of GLUE that TFDS prepared as ArrayRecord."""

    suite_attempts = 8

    def make(self, folder: Path) -> None:
        data = folder / "glue" / "rte" / "2.0.0"

        with tfds.core.registered.skip_registration():  # a test may define another dataset named rte

            class Rte(tfds.core.GeneratorBasedBuilder):
                VERSION = tfds.core.Version("2.0.0")

                def _info(self) -> tfds.core.DatasetInfo:
                    features = {"sentence1": tfds.features.Text(), "sentence2": tfds.features.Text()}
                    label = tfds.features.ClassLabel(names=["entailment", "not_entailment"])
                    features |= {"label": label, "idx": np.int32}
                    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

                def _split_generators(self, _: object) -> dict[str, Iterator]:
                    return {name: self._generate_examples() for name in ("train", "validation", "test")}

                def _generate_examples(self) -> Iterator:
                    for i in range(4):
                        yield i, {"sentence1": "a cat", "sentence2": "no cat", "label": i % 2, "idx": i}

        builder = Rte(data_dir=folder / "built", file_format=tfds.core.FileFormat.ARRAY_RECORD)
        builder.download_and_prepare()
        shutil.copytree(builder.data_dir, data)
        shutil.rmtree(folder / "built")

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        source, task = Source("tfds:."), TASKS["rte"]
        for split in (task.train, *task.validation):
            source.has(task, split)
            source.read(task, split, labelled=True)
        source.read(task, task.test[0], labelled=False)
