"""What transformers makes of the folders that `ours.py` wrote: `python theirs.py OUT [RECORD]`, run by `make interop`.

Needs torch and transformers, so it lives in the peers' environment and imports nothing of this package. Prints the
table of docs/interop.md; exits with 1 where a line of it is not as wanted. RECORD is where the tiny models' numbers
go, for tests that run without torch.
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

CLOSE = 1e-4


class Complaints(logging.Handler):
    """Everything that transformers warns of inside the context."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.heard = []

    def __enter__(self):
        transformers.utils.logging.get_logger().addHandler(self)

    def __exit__(self, *_):
        transformers.utils.logging.get_logger().removeHandler(self)

    def emit(self, record):
        self.heard.append(record.getMessage())


def main(out: Path, record: Path | None) -> int:
    inputs, asked = np.load(out / "inputs.npz"), json.loads((out / "inputs.json").read_text())
    ours, theirs, rows, failed = np.load(out / "ours.npz"), {}, [], False
    complaints = Complaints()
    tensors = {name: torch.tensor(inputs[name]) for name in ("tokens", "mask", "types")}
    warnings.simplefilter("error")
    for name in (*asked["attentions"], *asked["trained"]):
        with complaints:
            model, info = AutoModelForMaskedLM.from_pretrained(out / name, output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(out / name)
        with torch.no_grad():
            whole = model(tensors["tokens"]).logits.numpy()
            padded = run(model, tensors).numpy()[inputs["mask"] == 1]
        fill = pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=asked["top"], device="cpu")
        position_ids = [place for prompt in asked["prompts"] for place in nested(fill(prompt))]
        theirs[f"{name}/logits/whole"], theirs[f"{name}/logits/padded"] = whole, padded
        theirs[f"{name}/fill"] = np.array([[guess["token"] for guess in place] for place in position_ids])
        keys = sum(len(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        differ = [apart(ours, theirs, f"{name}/logits/{kind}") for kind in ("whole", "padded")]
        same = np.array_equal(ours[f"{name}/fill"], theirs[f"{name}/fill"])
        tuned = "-"
        if name in asked["attentions"]:
            folder = out / f"{name}.classifier"
            with complaints:
                tuner, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
            keys += sum(len(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
            with torch.no_grad():
                logits = theirs[f"{name}/classes"] = run(tuner, tensors).numpy()
            agree = (logits.argmax(-1) == ours[f"{name}/classes"].argmax(-1)).all()
            assert tuner.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
            tuned = "same" if agree else "DIFFER"
        failed |= bool(keys) or max(differ) > CLOSE or not same or tuned == "DIFFER"
        rows.append((name, keys, *(f"{each:.1e}" for each in differ), "same" if same else "DIFFER", tuned))
    theirs["sgd/losses"] = descend(out / "standard", inputs, asked["rate"])
    encode = AutoTokenizer.from_pretrained(out / "standard")
    ids = [encode(text).input_ids for text in asked["texts"]]
    theirs["tokenizer/ids"] = np.array([row + [-1] * (max(map(len, ids)) - len(row)) for row in ids])
    sgd, words = apart(ours, theirs, "sgd/losses"), np.array_equal(ours["tokenizer/ids"], theirs["tokenizer/ids"])
    failed |= sgd > CLOSE or not words or bool(complaints.heard)
    print("| model | missing or unexpected keys | logits, whole | logits, padded | best five words | classes |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print(f"\nten steps of SGD: losses differ by {sgd:.1e} at most")
    print(f"{len(ids)} odd texts: token ids {'same' if words else 'DIFFER'}; warnings: {complaints.heard or 'none'}")
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    if record:
        np.savez_compressed(
            record, **{name: theirs[name] for name in theirs if name.split("/")[0] not in asked["trained"]}
        )
    return int(failed)


def run(model, tensors):
    return model(tensors["tokens"], attention_mask=tensors["mask"], token_type_ids=tensors["types"]).logits


def descend(folder: Path, inputs, rate: float) -> np.ndarray:
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()  # eval turns dropout off, gradients stay
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=rate), []
    for tokens, labels in zip(inputs["steps/tokens"], inputs["steps/labels"], strict=True):
        loss = model(torch.tensor(tokens), labels=torch.tensor(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def apart(ours, theirs, name: str) -> float:
    return float(np.abs(ours[name] - theirs[name]).max())


def nested(position_ids: list) -> list:
    """The pipeline leaves out a level of lists where a text has one [MASK]."""
    return position_ids if isinstance(position_ids[0], list) else [position_ids]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
