"""Fine-tuning beside Hugging Face's Trainer (PyTorch): seconds a (task, seed) at BERT-small, by the paper's protocol.

    make peers-env && .venv/bin/python -m bench.glue --source=tsv:DIR --vocab=vocab.txt

Both train one epoch on the same sample of the task's examples and predict its dev set, each in a process of its own
that has warmed up, in alternating turns. Seconds of a whole trial are training time scaled to all examples and
epochs, plus the prediction. The Trainer runs twice: as Hugging Face's run_glue.py has it, which pads every row to
128, and with each batch padded to its longest row. All have the same batch size and start from random weights, which
cost the same as trained ones. A sample of few batches fills few lengths, and pads more than the whole task does: of 640
examples 4% (MRPC) and 6% (RTE) more tokens, of 1,280 none and 2%. RTE has 2,490: `--examples=2490` is all of it.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from bench.contenders import Contenders
from bench.record import record
from bench.steps import Shape, hf_config, our_model

EPOCHS, BATCH, RATE, LENGTH = 5, 16, 1e-5, 128  # the paper's protocol
Turn = Callable[[], tuple[float, float]]  # seconds of training on the sample, and of predicting the dev set


def sample(lengths: np.ndarray, count: int) -> np.ndarray:
    """Rows evenly spread over the lengths, in random order."""
    chosen = np.argsort(lengths, kind="stable")[np.linspace(0, len(lengths) - 1, count).astype(int)]
    return np.random.default_rng(0).permutation(chosen)


def load(name: str, source: str, vocab: str):
    """The task's examples, texts and tokenised."""
    from symbert_jax.data import tokenizer
    from symbert_jax.eval import batches, examples, tasks

    task = tasks.TASKS[name]
    parts = [examples.Source(source).read(task, split, labelled=True) for split in (task.train, task.validation[0])]
    words = tokenizer.load(Path(vocab), parse_special=False)
    return task, parts, [batches.tokenize(words, part, LENGTH) for part in parts]


def ours(name: str, flags: argparse.Namespace, attention: str) -> Turn:
    import dataclasses

    import jax

    from symbert_jax import config, sharding
    from symbert_jax.eval import protocols, task_data, training
    from symbert_jax.eval.trials import Trial
    from symbert_jax.model import bert

    model = our_model(attention, Shape())
    task, _, (train, dev) = load(name, flags.source, flags.vocab)
    rows = sample(train.lengths, flags.examples)
    part = dataclasses.replace(
        train,
        tokens=train.tokens[rows],
        lengths=train.lengths[rows],
        seconds=train.seconds[rows],
        labels=train.labels[rows],
    )
    protocol = dataclasses.replace(protocols.PROTOCOLS["paper"], epochs=1)
    jax.set_mesh(sharding.make_mesh(config.MeshConfig()))
    encoder = {k: v for k, v in bert.init(model, config.MeshConfig(), jax.random.key(0)).items() if k != "head"}
    trial = Trial("", "", name, BATCH, RATE, 0, "")

    def turn() -> tuple[float, float]:
        data = task_data.TaskData(part, {"validation": dev}, {})
        start = time.perf_counter()
        run = training.TaskRun(task, data, protocol, model, config.MeshConfig(), encoder)
        _, params = training.train(run, training.TrialGroup([trial], 1), mock.Mock())  # for a display of progress
        middle = time.perf_counter()
        training.predict(run, params, data.validation)
        predicting = time.perf_counter() - middle
        return middle - start - predicting, predicting

    return turn


def trainer(name: str, flags: argparse.Namespace) -> Turn:
    import torch
    from transformers import (
        BertForSequenceClassification,
        BertTokenizerFast,
        DataCollatorWithPadding,
        PrinterCallback,
        Trainer,
        TrainingArguments,
    )

    torch.manual_seed(0)
    rows = json.loads(sys.stdin.readline())  # this environment has no reader of ours: texts come from the parent
    words = BertTokenizerFast(flags.vocab)
    padding = PADDINGS[name]

    def tokenise(examples: list) -> list[dict]:
        texts = [a for (a, _), _ in examples], [b for (_, b), _ in examples]
        found = words(*texts, padding=padding, truncation=True, max_length=LENGTH)
        return [{key: found[key][i] for key in found} | {"labels": int(examples[i][1])} for i in range(len(examples))]

    train, dev = tokenise(rows["train"]), tokenise(rows["dev"])
    model = BertForSequenceClassification(hf_config(Shape()))
    folder = tempfile.mkdtemp()

    def turn() -> tuple[float, float]:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=64,
            learning_rate=RATE,
            warmup_ratio=0.1,
            num_train_epochs=1,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        run = Trainer(model, arguments, DataCollatorWithPadding(words), train_dataset=train, eval_dataset=dev)
        run.remove_callback(PrinterCallback)  # standard output is the parent's
        start = time.perf_counter()
        run.train()
        middle = time.perf_counter()
        run.predict(dev)
        return middle - start, time.perf_counter() - middle

    return turn


PADDINGS = {"hf_run_glue": "max_length", "hf_longest_of_batch": False}  # the collator pads what is not padded yet
PEERS = tuple(PADDINGS)
CONTENDERS = ("standard", "symmetric", "pairwise", *PEERS)


def work(name: str, flags: argparse.Namespace) -> None:
    """A contender's process: a turn to warm up, then one for each line."""
    turn = trainer(name, flags) if name in PEERS else ours(flags.task, flags, name)
    turn()
    print("{}", flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), flush=True)


def measure(task: str, flags: argparse.Namespace) -> dict:
    _, (train, dev), (encoded, _) = load(task, flags.source, flags.vocab)
    rows = sample(encoded.lengths, flags.examples)
    texts = {
        "train": [(train[i].texts, train[i].label) for i in rows],
        "dev": [(each.texts, each.label) for each in dev],
    }
    given = [f"--source={flags.source}", f"--vocab={flags.vocab}", f"--examples={flags.examples}", f"--task={task}"]
    seconds: dict[str, list[float]] = {name: [] for name in flags.contenders}
    with Contenders("glue", flags.contenders, PEERS, given) as contenders:
        for name in flags.contenders:
            contenders.ask(name, json.dumps(texts) if name in PEERS else None)
        for name, (training, predicting) in contenders.turns(flags.rounds, ""):
            seconds[name].append(training * EPOCHS * len(train) / flags.examples + predicting)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds": {name: round(value, 1) for name, value in medians.items()},
        "times": {
            peer: {name: round(medians[peer] / value, 2) for name, value in medians.items() if name not in PEERS}
            for peer in PEERS
            if peer in medians
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.glue", description=__doc__.partition("\n")[0])
    parser.add_argument("--source", required=True, help="tsv:DIR or tfds:DIR with RTE and MRPC")
    parser.add_argument("--vocab", required=True, help="the vocab.txt of bert-base-uncased")
    parser.add_argument("--examples", type=int, default=1280, help="of a task's training set, in a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender")
    parser.add_argument("--task", default="rte,mrpc")
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS, metavar="NAME")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        return work(flags.worker, flags)
    record("glue", examples=flags.examples, **{task: measure(task, flags) for task in flags.task.split(",")})


if __name__ == "__main__":
    main()
