"""The table of runs: parameters, final loss, also of the moving average, steps to certain losses, and speed."""

from symbert_jax.compare.runs import RunCurve
from symbert_jax.model import bert

NUM_THRESHOLDS = 3  # columns of loss thresholds; a cell is the first step at which the run reaches one


def table_cells(runs: list[RunCurve]) -> tuple[list[str], list[list[str]]]:
    """Returns the head of the table, and a row per run."""
    low = max(run.final_loss for run in runs)  # the highest final loss: every run reaches all thresholds above it
    high = max(max(run.losses.values()) for run in runs)
    thresholds = choose_thresholds(low, high)
    has_average = any(run.average_losses for run in runs)
    head = [
        "run",
        "parameters",
        "validation loss",
        *(["loss of the average"] if has_average else []),
        *(f"step at {loss}" for loss in thresholds),
        "tokens/s",
    ]
    rows = [
        [
            run.name,
            f"{bert.size(run.config.model):,}",
            f"{run.final_loss:.3f}",
            *([_final(run.average_losses)] if has_average else []),
            *(str(run.first_step_at(float(loss)) or "-") for loss in thresholds),
            "-" if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f}",
        ]
        for run in runs
    ]
    return head, rows


def _final(losses: dict[int, float]) -> str:
    return f"{losses[max(losses)]:.3f}" if losses else "-"


def choose_thresholds(low: float, high: float) -> list[str]:
    """Returns thresholds between `low` and `high`, as text, evenly spaced, the highest first.

    They have the fewest decimals, from 1 to 9, that keep them distinct. The list is empty if `low` equals `high`.
    """
    if low == high:
        return []
    losses = [low + (high - low) * i / (NUM_THRESHOLDS + 1) for i in range(NUM_THRESHOLDS, 0, -1)]
    rounded = (list(dict.fromkeys(f"{loss:.{decimals}f}" for loss in losses)) for decimals in range(1, 10))
    return max(rounded, key=len)  # the first of the longest lists, the one with the fewest decimals
