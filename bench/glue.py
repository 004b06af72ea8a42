"""Time of a fine-tuning trial of BERT-small with the paper's protocol, compared with Hugging Face's Trainer (PyTorch).

    make peers-env && .venv/bin/python -m bench.glue --source=tsv:DIR --vocab=vocab.txt
    .venv/bin/python -m bench.glue --source=tsv:DIR --vocab=vocab.txt --device=gpu --together=5

Each contender trains one epoch on the same sample of a task and predicts its validation set, in a process of its own
that has warmed up, in alternating turns. The time of a trial is the training time, scaled to all examples and epochs,
plus the time of the prediction. The Trainer runs twice: as in Hugging Face's run_glue.py, which pads every row to 128
tokens, and with each batch padded to its longest row. All train with the same batch size. Initial weights are random.
On a GPU all use bfloat16, as mixed precision. With `--together=5`, ours trains five trials side by side and the time of
one is a fifth of theirs; the Trainer has no such mode.

The batches of a small sample need more padding than those of the whole task: per example they have 4% (MRPC) and 6%
(RTE) more tokens with 640 examples, 0% and 2% with 1,280. `--examples=2490` is all of RTE.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.contenders import Contenders
from bench.record import record
from bench.steps import Workload, hf_config, our_config

EPOCHS, BATCH_SIZE, LEARNING_RATE, LENGTH = 5, 16, 1e-5, 128  # the paper's protocol
Turn = Callable[[], tuple[float, float]]  # returns the seconds of training and of predicting the validation set


def sample(lengths: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of `count` examples that are evenly spread over the lengths, in random order."""
    indices = np.argsort(lengths, kind="stable")[np.linspace(0, len(lengths) - 1, count).astype(int)]
    return np.random.default_rng(0).permutation(indices)


def load(task_name: str, source: str, vocab: str):
    """Returns the task, its training and validation examples, and both of these tokenized."""
    from symbert_jax.data import tokenizer
    from symbert_jax.eval import batches, examples, tasks

    task = tasks.TASKS[task_name]
    parts = [examples.Source(source).read(task, split, labelled=True) for split in (task.train, task.validation[0])]
    loaded = tokenizer.read(Path(vocab))
    encoder = loaded.build(parse_special=False)
    return task, parts, [batches.tokenize(encoder, loaded.pad_id, part, LENGTH) for part in parts]


def ours(attention: str, flags: argparse.Namespace) -> Turn:
    """Builds a turn of our fine-tuning."""
    import dataclasses

    import jax

    from symbert_jax import config, sharding
    from symbert_jax.eval import protocols, task_data, training
    from symbert_jax.eval.trials import Trial
    from symbert_jax.model import bert
    from symbert_jax.progress import Progress

    model = our_config(attention, Workload(), dtype="bfloat16" if flags.device == "gpu" else "float32")
    task, _, (train, validation) = load(flags.task, flags.source, flags.vocab)
    indices = sample(train.lengths, flags.examples)
    sampled = dataclasses.replace(
        train,
        tokens=train.tokens[indices],
        lengths=train.lengths[indices],
        second_starts=train.second_starts[indices],
        labels=train.labels[indices],
    )
    protocol = dataclasses.replace(protocols.PROTOCOLS["paper"], epochs=(1,))
    jax.set_mesh(sharding.make_mesh(config.MeshConfig()))
    encoder = {k: v for k, v in bert.init(model, config.MeshConfig(), jax.random.key(0)).items() if k != "head"}
    trials = [
        Trial(
            checkpoint="",
            data="",
            task=task.name,
            batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            seed=seed,
            protocol=protocol.fingerprint,
        )
        for seed in range(flags.together)
    ]

    def turn() -> tuple[float, float]:
        data = task_data.TaskData(train=sampled, validation={"validation": validation}, test={})
        run = training.TaskRun(task, data, protocol, model, config.MeshConfig(), encoder)
        start = time.perf_counter()
        _, params = training.train(
            run, training.TrialGroup(trials, size=len(trials)), Progress("trials", items=1, is_shown=False)
        )
        end_of_training = time.perf_counter()
        training.predict(run, params, data.validation)
        predicting = time.perf_counter() - end_of_training
        # `train` has also predicted the validation set once
        return (end_of_training - start - predicting) / flags.together, predicting / flags.together

    return turn


def trainer(name: str, flags: argparse.Namespace) -> Turn:
    """Builds a turn of Hugging Face's Trainer. Reads its examples as one line of JSON from stdin."""
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
    examples = json.loads(sys.stdin.readline())  # this environment does not have our package
    tokenizer = BertTokenizerFast(flags.vocab)

    def tokenize(examples: list) -> list[dict]:
        """examples: ((first text, second text), label) each."""
        texts = [a for (a, _), _ in examples], [b for (_, b), _ in examples]
        columns = tokenizer(*texts, padding=PADDINGS[name], truncation=True, max_length=LENGTH)
        return [
            {key: columns[key][i] for key in columns} | {"labels": int(label)} for i, (_, label) in enumerate(examples)
        ]

    train, validation = tokenize(examples["train"]), tokenize(examples["validation"])
    model = BertForSequenceClassification(hf_config(Workload()))
    folder = tempfile.mkdtemp()

    def turn() -> tuple[float, float]:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH_SIZE,
            per_device_eval_batch_size=64,
            learning_rate=LEARNING_RATE,
            warmup_steps=round(0.1 * math.ceil(len(train) / BATCH_SIZE)),
            num_train_epochs=1,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=flags.device == "cpu",
            bf16=flags.device == "gpu",
        )
        run = Trainer(
            model, arguments, DataCollatorWithPadding(tokenizer), train_dataset=train, eval_dataset=validation
        )
        run.remove_callback(PrinterCallback)  # the parent reads standard output
        start = time.perf_counter()
        run.train()
        end_of_training = time.perf_counter()
        run.predict(validation)
        return end_of_training - start, time.perf_counter() - end_of_training

    return turn


PADDINGS = {"hf_run_glue": "max_length", "hf_longest_of_batch": False}  # False leaves padding to the collator
PEERS = tuple(PADDINGS)
CONTENDERS = ("standard", "symmetric", "pairwise", *PEERS)


def work(name: str, flags: argparse.Namespace) -> None:
    """Runs a contender: a turn to warm up, then one for each line of stdin."""
    turn = trainer(name, flags) if name in PEERS else ours(name, flags)
    turn()
    print("{}", flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), flush=True)


def compare(task: str, flags: argparse.Namespace) -> dict:
    """Returns the seconds of a trial of each contender, and the peers' as multiples of ours."""
    _, (train, validation), (encoded, _) = load(task, flags.source, flags.vocab)
    examples = {
        "train": [(train[i].texts, train[i].label) for i in sample(encoded.lengths, flags.examples)],
        "validation": [(example.texts, example.label) for example in validation],
    }
    passed_on = ("source", "vocab", "examples", "device", "together")
    arguments = [f"--task={task}", *[f"--{name}={getattr(flags, name)}" for name in passed_on]]
    seconds: dict[str, list[float]] = {name: [] for name in flags.contenders}
    with Contenders("glue", flags.contenders, PEERS, arguments, flags.device) as contenders:
        for name in flags.contenders:
            contenders.ask(name, json.dumps(examples) if name in PEERS else None)
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
    parser.add_argument("--examples", type=int, default=1280, help="training examples per turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns per contender")
    parser.add_argument("--task", default="rte,mrpc", help="tasks, separated by commas")
    parser.add_argument("--device", default="cpu", help="cpu | gpu")
    parser.add_argument("--together", type=int, default=1, help="trials that ours trains side by side")
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS, metavar="NAME")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        return work(flags.worker, flags)
    tasks = {task: compare(task, flags) for task in flags.task.split(",")}
    record("glue", examples=flags.examples, device=flags.device, together=flags.together, **tasks)


if __name__ == "__main__":
    main()
