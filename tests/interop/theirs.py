"""Compares transformers with this package on the folders that `ours.py` wrote (`make interop`).

    python theirs.py OUT [RECORD]

This needs torch and transformers, so it runs in the environment of `make peers-env` and imports nothing of ours.
It prints the table of docs/weights.md, and exits with 1 if a check fails. It writes what transformers computes for the
tiny models to the file RECORD; the tests, which run without torch, compare with that file.
"""

import json
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline
from transformers.models.modernbert import modeling_modernbert  # noqa: F401  now, because its import makes warnings

TOLERANCE = 1e-4


class Warnings(logging.Handler):
    """Collects the warnings that transformers logs within the context."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def __enter__(self):
        transformers.utils.logging.get_logger().addHandler(self)

    def __exit__(self, *_):
        transformers.utils.logging.get_logger().removeHandler(self)

    def emit(self, record):
        self.messages.append(record.getMessage())


def main(out: Path, record: Path | None) -> int:
    """Prints the table, writes the file RECORD unless `record` is None, and returns the exit code."""
    inputs, settings = np.load(out / "inputs.npz"), json.loads((out / "inputs.json").read_text())
    ours, theirs, rows, failed = np.load(out / "ours.npz"), {}, [], False
    logged = Warnings()
    tensors = {name: torch.tensor(inputs[name]) for name in ("tokens", "mask", "types")}
    warnings.simplefilter("error")
    for name in (*settings["tiny"], *settings["trained"]):
        with logged:
            model, info = AutoModelForMaskedLM.from_pretrained(out / name, output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(out / name)
        with torch.no_grad():
            whole = model(tensors["tokens"]).logits.numpy()
            padded = run(model, tensors).numpy()[inputs["mask"] == 1]
        fill_mask = pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=settings["top"], device="cpu")
        guesses = [each for prompt in settings["prompts"] for each in by_mask(fill_mask(prompt))]
        theirs[f"{name}/logits/whole"], theirs[f"{name}/logits/padded"] = whole, padded
        theirs[f"{name}/fill"] = np.array([[guess["token"] for guess in each] for each in guesses])
        wrong_keys = sum(len(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        differences = [difference(ours, theirs, f"{name}/logits/{kind}") for kind in ("whole", "padded")]
        same_tokens = np.array_equal(ours[f"{name}/fill"], theirs[f"{name}/fill"])
        classes = "-"  # only the models in `tiny` are exported as classifiers, too
        if name in settings["tiny"]:
            folder = out / f"{name}.classifier"
            with logged:
                classifier, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
            wrong_keys += sum(len(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
            with torch.no_grad():
                logits = theirs[f"{name}/classes"] = run(classifier, tensors).numpy()
            same_classes = (logits.argmax(-1) == ours[f"{name}/classes"].argmax(-1)).all()
            assert classifier.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
            classes = "same" if same_classes else "DIFFER"
        failed |= bool(wrong_keys) or max(differences) > TOLERANCE or not same_tokens or classes == "DIFFER"
        fill = "same" if same_tokens else "DIFFER"
        rows.append((name, wrong_keys, *(f"{each:.1e}" for each in differences), fill, classes))
    theirs["sgd/losses"] = run_sgd(out / "standard", inputs, settings["learning_rate"])
    encode = AutoTokenizer.from_pretrained(out / "standard")
    ids = [encode(text).input_ids for text in settings["texts"]]
    theirs["tokenizer/ids"] = np.array([row + [-1] * (max(map(len, ids)) - len(row)) for row in ids])
    sgd_difference = difference(ours, theirs, "sgd/losses")
    same_ids = np.array_equal(ours["tokenizer/ids"], theirs["tokenizer/ids"])
    failed |= sgd_difference > TOLERANCE or not same_ids or bool(logged.messages)
    print("| model | missing or unexpected keys | logits, whole | logits, padded | best five words | classes |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print(f"\nten steps of SGD: losses differ by {sgd_difference:.1e} at most")
    print(f"{len(ids)} odd texts: token ids {'same' if same_ids else 'DIFFER'}; warnings: {logged.messages or 'none'}")
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    if record:
        np.savez_compressed(
            record, **{name: theirs[name] for name in theirs if name.split("/")[0] not in settings["trained"]}
        )
    return int(failed)


def run(model, tensors):
    """Returns the logits for padded rows. Only BERT has token types."""
    types = {"token_type_ids": tensors["types"]} if model.config.model_type == "bert" else {}
    return model(tensors["tokens"], attention_mask=tensors["mask"], **types).logits


def run_sgd(folder: Path, inputs, learning_rate: float) -> np.ndarray:
    """Returns the losses of gradient descent without momentum and dropout."""
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()  # without dropout; gradients are still computed
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=learning_rate), []
    for tokens, labels in zip(inputs["steps/tokens"], inputs["steps/labels"], strict=True):
        loss = model(torch.tensor(tokens), labels=torch.tensor(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def difference(ours, theirs, name: str) -> float:
    """Returns the largest absolute difference between the arrays `name` of ours and theirs."""
    return float(np.abs(ours[name] - theirs[name]).max())


def by_mask(guesses: list) -> list:
    """Returns a list of guesses for each [MASK]. For a text with one [MASK], the pipeline returns this list alone."""
    return guesses if isinstance(guesses[0], list) else [guesses]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
