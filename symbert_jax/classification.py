"""Fine-tuned models: predicts classes, probabilities and logits for sentences and pairs of sentences, on one device."""

import dataclasses
import functools
import reprlib
from collections.abc import Iterable

import jax
import numpy as np
from etils import epath
from jaxtyping import Float

from symbert_jax.config import ModelConfig
from symbert_jax.data.tokenizer import TextTokenizer, Tokenizer, read_for_model
from symbert_jax.errors import UserError
from symbert_jax.eval import saved, scores, steps
from symbert_jax.eval.batches import PADDING_ROW, prediction_plan, tokenize
from symbert_jax.eval.examples import Example
from symbert_jax.eval.tasks import TASKS, Task
from symbert_jax.inference import MAX_BATCH, check_text, one_device, round_up, softmax, to_device
from symbert_jax.model.tree import Params
from symbert_jax.storage import absolute, bucket_errors_as_user_errors


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A model that `finetune` saved; `load_classifier` returns it.

    It tokenizes and truncates texts as fine-tuning did, so its predictions for the validation splits have the saved
    score. For a task of single sentences, the methods take a list of sentences; for a task of pairs, a list of tuples,
    whose sentences have the order of the columns in GLUE's files, such as (premise, hypothesis).
    """

    folder: epath.Path
    task: Task  # the GLUE task: its name, classes and metrics
    score: float  # 100 times the mean of the task's metrics over its validation splits
    length: int  # tokens; a longer text is truncated, in a pair the longer sentence first
    model: ModelConfig = dataclasses.field(repr=False)
    params: Params = dataclasses.field(repr=False)  # a nested dict of numpy arrays; `head` is the classification head

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, from the package `tokenizers`. It reads "[SEP]" in a text as ordinary text, as in fine-tuning.

        Raises:
          UserError: the folder has no vocabulary, or one that does not fit the model.
        """
        return self._text_tokenizer.build(parse_special=False)

    def predict(self, pairs: Iterable[str | tuple[str, str]]) -> list[str] | list[float]:
        """Returns for each example the name of its class in the task's files, or the value of a regression.

            classifier.predict([("A man sleeps.", "Nobody is awake.")])  # ["entailment"]

        pairs: sentences, or tuples of two sentences, depending on the task.

        Raises:
          UserError: an example does not have the number of sentences of the task, or is not text in UTF-8.
        """
        predictions = scores.to_predictions(self.task, self.logits(pairs)).tolist()
        return [self.task.classes[i] for i in predictions] if self.task.classes else predictions

    def probabilities(self, pairs: Iterable[str | tuple[str, str]]) -> Float[np.ndarray, "B C"]:
        """Returns for each example the probability of each class, in the order of `task.classes`.

        Raises:
          UserError: as in `predict`, or the task is a regression.
        """
        if not self.task.classes:
            raise UserError("probabilities", f"{self.task.name}, a regression", "a task with classes", "call predict")
        return softmax(self.logits(pairs))

    def logits(self, pairs: Iterable[str | tuple[str, str]]) -> Float[np.ndarray, "B C"]:
        """Returns for each example the logits of the classes, or the value of a regression, with C = 1.

        Raises:
          UserError: as in `predict`.
        """
        examples = self._examples(pairs)
        logits = np.empty((len(examples), self.task.num_outputs), np.float32)
        if not examples:
            return logits
        split = tokenize(self.tokenizer, self._text_tokenizer.pad_id, examples, self.length)
        with jax.set_mesh(one_device()):
            for planned in prediction_plan(split, min(round_up(len(split)), MAX_BATCH)):
                batch = split.batch(planned)
                batch_logits = np.asarray(
                    _logits(self.model, self.task.num_outputs, self._device_params, batch, key=None)
                )
                is_real = planned.indices != PADDING_ROW
                logits[planned.indices[is_real]] = batch_logits[is_real]
        return logits

    def _examples(self, pairs: Iterable[str | tuple[str, str]]) -> list[Example]:
        num_sentences = len(self.task.texts)
        wanted = "a sentence" if num_sentences == 1 else "a tuple of two sentences"
        if isinstance(pairs, str):
            raise UserError("pairs", reprlib.repr(pairs), f"a list, each item {wanted}")
        examples = []
        for i, pair in enumerate(pairs):
            texts = pair if isinstance(pair, tuple) else (pair,)
            if len(texts) != num_sentences:
                raise UserError(f"pairs[{i}]", reprlib.repr(pair), f"{wanted}, as {self.task.name} has")
            for text in texts:
                check_text(f"pairs[{i}]", text)
            examples.append(Example(texts, label=None))
        return examples

    @functools.cached_property
    def _text_tokenizer(self) -> TextTokenizer:
        return read_for_model(self.folder, self.model.vocab_size)

    @functools.cached_property
    def _device_params(self) -> Params:
        return to_device(self.params)


def load_classifier(folder: epath.PathLike) -> Classifier:
    """Loads a model that `finetune` saved with --config.save_models.

        classifier = symbert_jax.load_classifier("runs/glue/mini/models/1f2e3d4c/mnli-5a6b7c8d")

    Raises:
      UserError: there is no such model, or it is damaged.
    """
    path = absolute(folder, "checkpoint")
    with bucket_errors_as_user_errors("checkpoint", path, "a bucket that can be read"):
        if not saved.is_saved(path):
            wanted = "a folder that finetune saved: WORKDIR/models/HASH/TASK-HASH"
            hint = "finetune saves one with --config.save_models=True"
            raise UserError("checkpoint", f"no {path / saved.DESCRIPTION}", wanted, hint)
        description = saved.read_description(path)
        length = min(description.length, description.model.length)
        task = TASKS[description.task]
        return Classifier(path, task, description.score, length, description.model, saved.read_params(path))


_logits = jax.jit(steps.logits, static_argnums=(0, 1))
