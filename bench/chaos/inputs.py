"""Small inputs of the commands: documents for `prepare` and tasks for `finetune`, always the same ones."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_documents(file: Path) -> None:
    """Writes 8,000 documents as JSON lines; each holds three paragraphs of Python's help."""
    from pydoc_data.topics import topics

    rng = random.Random(0)
    paragraphs = [part for name in sorted(topics) for part in topics[name].split("\n\n") if len(part) > 40]
    texts = ("\n\n".join(rng.sample(paragraphs, 3)) for _ in range(8000))
    file.write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))


def write_glue(folder: Path, vocabulary: Sequence[str]) -> None:
    """Writes CoLA, MNLI and RTE with a few examples. Sentences have 5 or 12 words, each of them a single token."""
    rng = np.random.default_rng(0)
    words = np.array([word for word in vocabulary if word.isalpha() and len(word) > 2])

    def write(
        task: str, file: str, *, header: str, examples: int, sentences_each: int, classes: Sequence[str] = ()
    ) -> None:
        """Writes a file of examples, without labels if there are no classes.

        Each class takes its sentences from its own part of `words`.

        header: the first line; empty: none, and the columns of CoLA: number, label, an empty one, sentence.
        sentences_each: the sentences of an example.
        """
        lines = []
        for number in range(examples):
            label = int(rng.integers(len(classes) or 3))
            own_words = np.array_split(words, len(classes) or 3)[label]
            sentences = [" ".join(rng.choice(own_words, rng.choice((5, 12)))) for _ in range(sentences_each)]
            fields = [str(number), *sentences, *classes[label : label + 1]]
            lines.append("\t".join(fields if header else [fields[0], fields[-1], "", *sentences]))
        (folder / task).mkdir(parents=True, exist_ok=True)
        text = "".join(f"{line}\n" for line in [*filter(None, [header]), *lines])
        (folder / task / f"{file}.tsv").write_text(text)

    pair = "index\tsentence1\tsentence2"
    for part, examples in (("train", 96), ("dev", 31)):
        write("CoLA", part, header="", examples=examples, sentences_each=1, classes=("0", "1"))
        classes = ("entailment", "not_entailment")
        write("RTE", part, header=f"{pair}\tlabel", examples=examples, sentences_each=2, classes=classes)
        classes = ("entailment", "neutral", "contradiction")
        for file in ("dev_matched", "dev_mismatched") if part == "dev" else (part,):
            write("MNLI", file, header=f"{pair}\tgold_label", examples=examples, sentences_each=2, classes=classes)
    write("CoLA", "test", header="index\tsentence", examples=9, sentences_each=1)
    for task, file in (("RTE", "test"), ("MNLI", "test_matched"), ("MNLI", "test_mismatched")):
        write(task, file, header=pair, examples=9, sentences_each=2)
