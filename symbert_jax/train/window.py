"""The sums of several batches: those since the last log point, and those of a validation.

The sums since the last log point are saved with every checkpoint, so that a resumed run writes at its next log point
what it would have written without a stop.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Float

from symbert_jax.batch import Array as AnyArray
from symbert_jax.errors import UserError
from symbert_jax.metrics import Values
from symbert_jax.train.step import Sums

# The names in a checkpoint: NAME/sum and NAME/count for each sum, and empty.
SUM_SUFFIX, COUNT_SUFFIX, EMPTY = "/sum", "/count", "empty"


class Diverged(UserError):
    """A loss or another sum of a run is not finite."""


class Window:
    """Adds up batches one by one, so that a run that continues from saved sums gets the same bits.

    Copies the sums from the devices only when a method returns numbers.
    """

    def __init__(self, prefix: str, saved: Mapping[str, float] | None = None):
        """prefix: the first part of the names of averages, for example train.

        saved: what `to_save` returned for the checkpoint from which the run resumes.
        """
        self.prefix = prefix
        self._sums, self.empty_batches = _from_saved(saved or {})  # an empty batch has no token to predict
        self._pending = list[Any]()

    @property
    def last(self) -> list[Sums]:
        """A list with the sums of the last batch, on the devices; an empty list if the sums have been read."""
        return self._pending[-1:]

    def add(self, sums: Mapping[str, tuple[Float[AnyArray, ""], Float[AnyArray, ""]]]) -> None:
        self._pending.append(sums)

    def averages(self, step: int) -> Values:
        """Returns the average, sum / count, of every sum whose count is not 0, by the name PREFIX/NAME.

        Raises:
          Diverged: a sum is not finite at this step.
        """
        self._read(step)
        return {f"{self.prefix}/{name}": total / count for name, (total, count) in self._sums.items() if count}

    def to_save(self, step: int) -> dict[str, float]:
        """Returns the sums in the form that a checkpoint stores. Raises the same error as `averages`."""
        self._read(step)
        saved = {EMPTY: self.empty_batches}
        for name, (total, count) in self._sums.items():
            saved |= {name + SUM_SUFFIX: total, name + COUNT_SUFFIX: count}
        return saved

    def clear(self) -> None:
        self._sums, self.empty_batches = {}, 0.0
        self._pending.clear()

    def _read(self, step: int) -> None:
        """Adds the pending sums, and raises `Diverged` if a sum is not finite.

        Every sum passes this check before it is written, and before a checkpoint is. So a run whose loss or gradient is
        not finite does not replace good checkpoints.
        """
        for sums in jax.device_get(self._pending):
            self.empty_batches += float(sums["loss"][1] == 0)
            for name, pair in sums.items():
                total, count = self._sums.get(name, (0.0, 0.0))
                self._sums[name] = total + float(pair[0]), count + float(pair[1])
        self._pending.clear()
        # The loss comes first, because the other sums follow from it.
        for name in sorted(self._sums, key=lambda name: name != "loss"):
            if not math.isfinite(total := self._sums[name][0]):
                hint = "earlier checkpoints are intact; lower optim.learning_rate or lengthen optim.warmup_steps"
                raise Diverged(f"{self.prefix}/{name}", f"{total} at step {step}", "a finite number", hint)


def _from_saved(saved: Mapping[str, float]) -> tuple[dict[str, tuple[float, float]], float]:
    """Returns the sums with their counts, by name, and the number of empty batches."""
    if "correct" in saved:  # earlier versions saved these three sums under other names
        num_updates = saved["steps"] - saved[EMPTY]
        return {
            "accuracy": (saved["correct"], saved["count"]),
            "grad_norm": (saved["grad_norm"], num_updates),
            "loss": (saved["loss"], saved["count"]),
        }, saved[EMPTY]
    names = [key.removesuffix(SUM_SUFFIX) for key in saved if key.endswith(SUM_SUFFIX)]
    sums = {name: (saved[name + SUM_SUFFIX], saved[name + COUNT_SUFFIX]) for name in names}
    return sums, saved.get(EMPTY, 0.0)
