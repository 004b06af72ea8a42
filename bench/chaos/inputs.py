"""Small inputs of the commands: documents for `prepare` and tasks for `finetune`, always the same ones."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_documents(file: Path) -> None:
    """Writes JSON lines with parts of Python's help, several thousand documents."""
    from pydoc_data.topics import topics

    rng = random.Random(0)
    paragraphs = [part for name in sorted(topics) for part in topics[name].split("\n\n") if len(part) > 40]
    texts = ("\n\n".join(rng.sample(paragraphs, 3)) for _ in range(8000))
    file.write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))


def write_glue(folder: Path, vocabulary: Sequence[str]) -> None:
    """Writes CoLA, MNLI and RTE with a few examples of two lengths, from words that are single tokens."""
    rng = np.random.default_rng(0)
    words = np.array([word for word in vocabulary if word.isalpha() and len(word) > 2])

    def write(task: str, file: str, header: str, count: int, texts: int, classes: Sequence[str] = ()) -> None:
        """Writes `count` examples with `texts` sentences each, without labels if there are no classes.

        Each class takes its sentences from its own part of `words`.
        """
        lines = []
        for number in range(count):
            label = int(rng.integers(len(classes) or 3))
            own_words = np.array_split(words, len(classes) or 3)[label]
            sentences = [" ".join(rng.choice(own_words, rng.choice((5, 12)))) for _ in range(texts)]
            fields = [str(number), *sentences, *classes[label : label + 1]]
            lines.append("\t".join(fields if header else [fields[0], fields[-1], "", *sentences]))
        (folder / task).mkdir(parents=True, exist_ok=True)
        text = "".join(f"{line}\n" for line in [*filter(None, [header]), *lines])
        (folder / task / f"{file}.tsv").write_text(text)

    pair = "index\tsentence1\tsentence2"
    for part, count in (("train", 96), ("dev", 31)):
        write("CoLA", part, "", count, 1, ("0", "1"))
        write("RTE", part, f"{pair}\tlabel", count, 2, ("entailment", "not_entailment"))
        for file in ("dev_matched", "dev_mismatched") if part == "dev" else (part,):
            write("MNLI", file, f"{pair}\tgold_label", count, 2, ("entailment", "neutral", "contradiction"))
    write("CoLA", "test", "index\tsentence", 9, 1)
    for task, file in (("RTE", "test"), ("MNLI", "test_matched"), ("MNLI", "test_mismatched")):
        write(task, file, pair, 9, 2)
