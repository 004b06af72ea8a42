"""GLUE without BERT: logistic regression on counts of words and of pairs of adjacent words.

    .venv/bin/python -m bench.bag_of_words --source=tsv:DIR --tasks=sst2,cola

A baseline for fine-tuned models. The two texts of a pair are joined. Records the metrics of each task on its validation
set; of two validation sets, on the first.
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
    parser.add_argument("--tasks", default="sst2", help="separated by commas")
    flags = parser.parse_args()
    source, results = Source(flags.source), {}
    for task in find_tasks(flags.tasks.split(",")):
        train, validation = (source.read(task, split, labelled=True) for split in (task.train, task.validation[0]))
        model = make_pipeline(
            CountVectorizer(ngram_range=(1, 2), token_pattern=r"\S+"),
            LogisticRegression(max_iter=1000),
        )
        model.fit([" ".join(example.texts) for example in train], [example.label for example in train])
        predictions = model.predict([" ".join(example.texts) for example in validation])
        metrics = scores.compute_metrics(task, predictions, np.array([example.label for example in validation]))
        results[task.name] = {name: round(value, 4) for name, value in metrics.items()}
    record("bag_of_words", **results)


if __name__ == "__main__":
    main()
