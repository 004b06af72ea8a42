"""GLUE scores of Hugging Face's Trainer (PyTorch), for a table beside those of `finetune` with the same protocol.

    make peers-env && .venv/bin/python -m bench.trainer --model=bert --source=tsv:glue --tasks=rte,mrpc

The protocol is Devlin et al.'s with one learning rate, in `finetune` the flags `--config.protocol=bert
--config.learning_rates=5e-5 --config.seeds=3`. Batches are padded to their longest row, and the pooler is new, as in
`finetune`. On a GPU it trains with bfloat16 as mixed precision. Each task is a process in the peers' environment; the
scores are computed here, by the functions of `finetune`. Records for each task the score of each seed, 0 to 100, and
the seconds of a trial, prediction included.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

from bench.contenders import DEVICES, HUGE_PAGES, PEERS_PYTHON, QUIET, ROOT
from bench.record import record

LENGTH, WARMUP, WEIGHT_DECAY, EPSILON, CLIP = 128, 0.1, 0.01, 1e-6, 1.0  # `bert` in eval/protocols.py


def train(flags: argparse.Namespace) -> None:
    """Trains one trial per seed on the examples that stdin holds; prints seconds and validation logits of each."""
    import torch
    import transformers
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    task = json.loads(sys.stdin.readline())
    tokenizer = AutoTokenizer.from_pretrained(flags.model)

    def tokenize(examples: list) -> list[dict]:
        """examples: (texts, label) each, where texts are one sentence or two."""
        columns = tokenizer(
            *map(list, zip(*(texts for texts, _ in examples), strict=True)), truncation=True, max_length=LENGTH
        )
        label = int if task["classes"] else float
        return [
            {name: column[i] for name, column in columns.items()} | {"labels": label(value)}
            for i, (_, value) in enumerate(examples)
        ]

    rows, validation = tokenize(task["train"]), tokenize(task["validation"])
    for seed in range(flags.seeds):
        transformers.set_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            flags.model, num_labels=task["classes"] or 1, dtype=torch.float32
        )
        model.bert.pooler.apply(model._init_weights)
        arguments = transformers.TrainingArguments(
            tempfile.mkdtemp(),
            seed=seed,
            per_device_train_batch_size=flags.batch_size,
            per_device_eval_batch_size=64,
            num_train_epochs=flags.epochs,
            learning_rate=flags.learning_rate,
            warmup_steps=round(WARMUP * flags.epochs * math.ceil(len(rows) / flags.batch_size)),
            weight_decay=WEIGHT_DECAY,
            adam_epsilon=EPSILON,
            max_grad_norm=CLIP,
            use_cpu=flags.device == "cpu",
            bf16=flags.device == "gpu",
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(
            model, arguments, DataCollatorWithPadding(tokenizer), train_dataset=rows, eval_dataset=validation
        )
        trainer.remove_callback(transformers.PrinterCallback)  # the parent reads standard output
        start = time.perf_counter()
        trainer.train()
        logits = trainer.predict(validation).predictions
        print(json.dumps({"seconds": time.perf_counter() - start, "logits": logits.tolist()}), flush=True)


def score(name: str, flags: argparse.Namespace) -> dict:
    """Trains the trials of a task; returns their scores and seconds."""
    import numpy as np

    from symbert_jax.eval import examples, scores, tasks

    task = tasks.TASKS[name]
    source = examples.Source(flags.source)
    train_rows, validation = (source.read(task, split, labelled=True) for split in (task.train, task.validation[0]))
    labels = np.array([example.label for example in validation])
    worker = [PEERS_PYTHON, "-m", "bench.trainer", *sys.argv[1:], "--worker"]
    environment = HUGE_PAGES | os.environ | QUIET | DEVICES[flags.device]
    with subprocess.Popen(
        worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        question = {"classes": len(task.classes), "train": train_rows, "validation": validation}
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        trials = [json.loads(line) for line in process.stdout]
    if len(trials) != flags.seeds:
        sys.exit(f"bench.trainer: {name} stopped; its output is above")
    results = []
    for trial in trials:
        predictions = scores.to_predictions(task, np.array(trial["logits"]))
        results.append(scores.compute_score(scores.compute_metrics(task, predictions, labels)))
    return {
        "scores": [round(result, 2) for result in results],
        "mean": round(statistics.mean(results), 2),
        "seconds": round(statistics.median(trial["seconds"] for trial in trials), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder that Hugging Face's AutoModel reads")
    parser.add_argument("--source", required=True, help="tsv:DIR or tfds:DIR")
    parser.add_argument("--tasks", default="cola,sst2,mrpc,stsb,rte", help="separated by commas")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu | gpu")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        return train(flags)
    protocol = {name: getattr(flags, name) for name in ("epochs", "learning_rate", "batch_size", "seeds")}
    for name in flags.tasks.split(","):
        record("trainer", device=flags.device, protocol=protocol, task=name, **score(name, flags))


if __name__ == "__main__":
    main()
