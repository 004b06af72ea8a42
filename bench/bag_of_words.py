"""What GLUE needs no BERT for: logistic regression on counts of words and pairs of neighbouring words.

    .venv/bin/python -m bench.bag_of_words --source=tsv:DIR --tasks=sst2,cola

The floor that a fine-tuned model must beat. Pairs of sentences are joined. Prints one JSON line: each metric of each
task's dev set.
"""

import argparse

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from bench.record import record
from symbert_jax.eval import scores
from symbert_jax.eval.examples import Source
from symbert_jax.eval.tasks import find_tasks


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.bag_of_words", description=__doc__.partition("\n")[0])
    parser.add_argument("--source", required=True, help="tsv:DIR or tfds:DIR")
    parser.add_argument("--tasks", default="sst2")
    flags = parser.parse_args()
    source, found = Source(flags.source), {}
    for task in find_tasks(flags.tasks.split(",")):
        train, dev = (source.read(task, split, labelled=True) for split in (task.train, task.validation[0]))
        model = make_pipeline(
            CountVectorizer(ngram_range=(1, 2), token_pattern=r"\S+"),
            LogisticRegression(max_iter=1000),
        )
        model.fit([" ".join(each.texts) for each in train], [each.label for each in train])
        predictions = model.predict([" ".join(each.texts) for each in dev])
        labels = np.array([each.label for each in dev])
        metrics = scores.compute_metrics(task, predictions, labels)
        found[task.name] = {name: round(value, 4) for name, value in metrics.items()}
    record("bag_of_words", **found)


if __name__ == "__main__":
    main()
