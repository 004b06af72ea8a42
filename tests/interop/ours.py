"""What this package makes of a few models, for comparison with what transformers makes of the folders it exports.

`python -m tests.interop.ours OUT [WORKDIR ...]` writes the folders, `inputs.npz`, `inputs.json` and `ours.npz` to OUT,
with which `theirs.py` compares. The tests compare with what that recorded in `tests/fixtures/transformers/`.
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import jax
import numpy as np
from etils import epath

from symbert_jax.batch import MlmBatch
from symbert_jax.checkpoint import load
from symbert_jax.config import ATTENTIONS, MeshConfig, ModelConfig
from symbert_jax.data import tokenizer
from symbert_jax.eval import saved
from symbert_jax.inference import Filler
from symbert_jax.interop.architecture import AFFINITY
from symbert_jax.interop.export import export
from symbert_jax.interop.import_ import import_
from symbert_jax.model import bert, classifier
from symbert_jax.model.tree import Params
from symbert_jax.sharding import make_mesh
from symbert_jax.train.step import mlm_objective

FIXTURES = Path(__file__).parents[1] / "fixtures"
VOCAB = FIXTURES / "transformers" / "vocab.txt"
CLASSES, STEPS, RATE, TOP = 3, 10, 0.1, 5
PROMPTS = ("the [MASK] sat on the mat.", "a [MASK] of [MASK], wanted!")
TEXTS = (
    "",
    " \t\r\n\u3000",
    "The cat sat on the mat.",
    "UNWANTED, running!",
    "caf\u00e9 cafe\u0301 \u00c9 \u00df \u0130 \ufb01",
    "\u4e2d\u56fdthe\u4e2d 12 a1",
    "\x00\x07a\u200bb\u00adc\ufffd \u2028",
    "\U0001f44d\U0001f3fd the \u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",
    "x" * 100 + " " + "x" * 101,
    "\u03a3\u0391\u03a3 don't ... $3.12 -- [MASK] [mask] [CLS]",
)


def write(out: Path, workdirs: list[Path]) -> dict[str, np.ndarray]:
    """Exports three tiny models of the paper's code, as masked-language models and as classifiers, and `workdirs`."""
    out.mkdir(parents=True, exist_ok=True)
    inputs = make_inputs(length=24, words=120)
    found = {}
    for attention in ATTENTIONS:
        workdir = out / f"{attention}.workdir"
        source = epath.Path(FIXTURES / "plpi" / AFFINITY[attention])
        import_(source, epath.Path(workdir), str(VOCAB), None, "")
        found |= masked(attention, workdir, out, inputs) | classified(attention, workdir, out, inputs)
    params, config = load(out / "standard.workdir")
    found["sgd/losses"] = descend(config.model, params, inputs)
    trained = {f"{workdir.parent.name}-{workdir.name}": workdir for workdir in workdirs}
    for name, workdir in trained.items():
        found |= masked(name, workdir, out, inputs)
    encode = tokenizer.load(VOCAB, parse_special=True).encode_batch
    found["tokenizer/ids"] = ragged([encoded.ids for encoded in encode(list(TEXTS))])
    np.savez(out / "inputs.npz", **inputs)
    np.savez(out / "ours.npz", **found)
    asked = {
        "attentions": ATTENTIONS,
        "trained": [*trained],
        "texts": TEXTS,
        "prompts": PROMPTS,
        "rate": RATE,
        "top": TOP,
    }
    (out / "inputs.json").write_text(json.dumps(asked))
    return found


def make_inputs(length: int, words: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = np.array([length, length // 2, 5, 1])
    mask = np.arange(length) < lengths[:, None]
    labels = rng.integers(5, words, (STEPS, 4, length))
    return {
        "tokens": rng.integers(5, words, (4, length)),
        "mask": mask.astype(np.int64),
        "types": mask * np.int64(np.arange(length) >= 7),
        "steps/tokens": rng.integers(5, words, (STEPS, 4, length)),
        "steps/labels": np.where(rng.random(labels.shape) < 0.2, labels, -100),
    }


def masked(name: str, workdir: Path, out: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Logits of a whole and a padded batch, and the best words of the prompts."""
    export(epath.Path(workdir), epath.Path(out / name), None, "huggingface", "float32", "tests")
    params, config = load(workdir)
    model = dataclasses.replace(config.model, dtype="float32")
    tokens, mask = inputs["tokens"].astype(np.int32), inputs["mask"] == 1
    position_ids = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    with one_device():
        run = functools.partial(jax.jit(bert.logits, static_argnums=0), model, params, tokens, position_ids)
        whole, padded = run(), run(token_types=inputs["types"].astype(np.int32), segments=mask.astype(np.int32))
    filler = Filler(epath.Path(workdir))
    ids = [
        [filler.tokenizer.token_to_id(guess.word) for guess in place]
        for prompt in PROMPTS
        for place in filler.guesses(prompt, TOP)
    ]
    return {
        f"{name}/logits/whole": np.asarray(whole),
        f"{name}/logits/padded": np.asarray(padded)[mask],
        f"{name}/fill": np.array(ids),
    }


def classified(name: str, workdir: Path, out: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Logits of a classifier of the same encoder, born here and saved as `finetune` saves it."""
    params, config = load(workdir)
    with one_device():
        head = jax.tree.map(np.asarray, classifier.init_head(config.model, CLASSES, jax.random.key(1)))
        head["classifier"]["kernel"] = (
            50 * head["classifier"]["kernel"]
        )  # far apart, so that predictions are no matter of rounding
        tuned = {**params, "head": head}
        logits = jax.jit(classifier.logits, static_argnums=(0, 1))(
            config.model,
            CLASSES,
            tuned,
            inputs["tokens"].astype(np.int32),
            token_types=inputs["types"].astype(np.int32),
            mask=inputs["mask"] == 1,
        )
    folder = epath.Path(out / f"{name}.mnli")
    saved.write(folder, saved.Saved(0.0, "mnli", config.model, "none"), tuned, epath.Path(VOCAB), first=True)
    export(folder, epath.Path(out / f"{name}.classifier"), None, "huggingface", "float32", "tests")
    return {f"{name}/classes": np.asarray(logits)}


def descend(model: ModelConfig, params: Params, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The losses of ten steps of plain gradient descent without dropout."""
    losses = []

    def mean(params: Params, batch: MlmBatch) -> jax.Array:
        total, count = mlm_objective(model, params, batch, None)["loss"]
        return total / count

    step = jax.jit(jax.value_and_grad(mean))
    with one_device():
        for tokens, labels in zip(inputs["steps/tokens"], inputs["steps/labels"], strict=True):
            position_ids = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
            weights = (labels >= 0).astype(np.float32)
            batch = MlmBatch(tokens.astype(np.int32), position_ids, labels.astype(np.int32), weights)
            value, gradients = step(params, batch)
            params = jax.tree.map(lambda weight, gradient: weight - RATE * gradient, params, gradients)
            losses.append(float(value))
    return np.array(losses)


def ragged(rows: list[list[int]]) -> np.ndarray:
    width = max(map(len, rows))
    return np.array([row + [-1] * (width - len(row)) for row in rows])


def one_device() -> jax.sharding.Mesh:
    return jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1]))


if __name__ == "__main__":
    write(Path(sys.argv[1]), [Path(workdir) for workdir in sys.argv[2:]])
