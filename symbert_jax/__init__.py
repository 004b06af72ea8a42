"""BERT with standard, symmetric and pairwise self-attention, pretrained in JAX (arXiv 2406.06366).

To use a checkpoint that `pretrain` or `import` wrote:

    model = symbert_jax.load("runs/mini/pairwise")
    model.fill_mask("The capital of [MASK] is Paris.")  # a list of (token, probability) for each [MASK]
    model.embed(["A sentence.", "Another one."])        # float32[2, D]
    params, config = model                              # a nested dict of numpy arrays, and the frozen config

To use a model that `finetune` saved:

    classifier = symbert_jax.load_classifier("runs/glue/mini/models/1f2e3d4c/mnli-5a6b7c8d")
    classifier.predict([("A man sleeps.", "Nobody is awake.")])  # ["entailment"], …

To feed a training loop of your own:

    for batch in symbert_jax.batches(config): ...  # the same batches as in `pretrain`

The models run on one device. All of these functions raise `UserError` if an argument or a file cannot be used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from symbert_jax.classification import Classifier, load_classifier
    from symbert_jax.data.batches import batches
    from symbert_jax.errors import UserError
    from symbert_jax.inference import EncodedTexts, Guess, Model, load

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "EncodedTexts",
    "Guess",
    "Model",
    "UserError",
    "batches",
    "load",
    "load_classifier",
]

_MODULES = {  # the module that defines each public name
    "Classifier": "classification",
    "EncodedTexts": "inference",
    "Guess": "inference",
    "Model": "inference",
    "UserError": "errors",
    "batches": "data.batches",
    "load": "inference",
    "load_classifier": "classification",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use: importing the package alone must not import JAX."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
