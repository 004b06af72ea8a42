"""The sums of the steps since the last log point.

They are saved with every checkpoint, so that a run that goes on from it reports at its next log point what it would
have reported without a stop.
"""

import jax

from symbert_jax.metrics import Values
from symbert_jax.train.step import Sums

STEPS, EMPTY = "steps", "empty"  # the steps, and those of them whose batch had no token to predict


class Window:
    """Adds one by one, so that to go on from what was saved gives the same bits. Reads the devices only when asked."""

    def __init__(self, saved: dict[str, float]):
        """saved: what `total` was at the checkpoint from which the run goes on."""
        self.added, self.pending = dict(saved), list[Sums]()

    @property
    def last(self) -> list[Sums]:
        """The sums of the last step, on the devices, if they have not been read."""
        return self.pending[-1:]

    def add(self, sums: Sums) -> None:
        self.pending.append(sums)

    def total(self) -> dict[str, float]:
        """The sums over all steps, by their names, and the number of steps; empty without a step."""
        for sums in jax.device_get(self.pending):
            counted = sums | {STEPS: 1, EMPTY: sums["count"] == 0}
            self.added = {name: self.added.get(name, 0.0) + float(value) for name, value in counted.items()}
        self.pending.clear()
        return self.added

    def averages(self) -> Values:
        """Loss in nats and accuracy per predicted token, and the norm of the gradient per step that had such tokens."""
        total = self.total()
        values = {}
        if trained := total[STEPS] - total[EMPTY]:
            values["train/loss"] = total["loss"] / total["count"]
            values["train/accuracy"] = total["correct"] / total["count"]
            values["train/grad_norm"] = total["grad_norm"] / trained
        if total[EMPTY]:
            values["train/empty_steps"] = total[EMPTY]
        return values

    def clear(self) -> None:
        self.added = {}
        self.pending.clear()
