"""The report of a study: report.md, report.json and the plots."""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from symbert_jax import render
from symbert_jax.compare.attention import STATISTICS
from symbert_jax.config import StudyConfig, parse_arms, phases
from symbert_jax.errors import UserError
from symbert_jax.model import bert
from symbert_jax.storage import write_whole
from symbert_jax.study import plots
from symbert_jax.study.plan import Run
from symbert_jax.study.results import (
    CONFIDENCE,
    Arm,
    Mean,
    average,
    collect,
    escape_steps,
    paired_difference,
    plateau_loss,
    select_best,
    steps_to_reference,
    to_json,
)


def write_report(study: StudyConfig, runs: Sequence[Run], workdir: epath.Path) -> None:
    """Writes the report of all finished runs to `workdir`, and prints the table of arms.

    Raises:
      UserError: no run is finished, or none of a learning rate at which all runs end.
    """
    arms = collect(runs)
    best = select_best(arms)
    if not best and any(arm.curves for arm in arms):
        found = f"a diverged run at every learning rate of every arm in {workdir}"
        hint = "a study with lower learning rates needs a new workdir"
        raise UserError("learning_rates", found, "one at which no run of an arm diverges", hint)
    if not best:
        raise UserError("workdir", f"no finished run in {workdir}", "at least one that did not diverge")
    num_finished = sum(len(arm.runs) for arm in arms)
    table = format_arms(study, best)
    sections = [
        f"{num_finished} of {len(runs)} runs are finished. {_describe(study)}",
        f"## Arms at their best learning rates\n\n{table}\n{_explain(study, best)}",
        f"## All learning rates\n\n{format_learning_rates(arms)}",
    ]
    write_whole(workdir / "report.md", "# Study\n\n" + "\n\n".join(section.strip() for section in sections) + "\n")
    write_whole(workdir / "report.json", json.dumps(_to_json(study, arms, best), indent=1) + "\n")
    files = {
        "loss.png": plots.plot_losses(list(best.values())),
        "escape.png": plots.plot_escapes({name: escape_steps(study, best, arm) for name, arm in best.items()}),
        "diagnostics.png": plots.plot_diagnostics(list(best.values())),
    }
    for name, image in files.items():
        if image:
            write_whole(workdir / name, image)
    written = ", ".join(name for name, image in files.items() if image)
    print(
        f"{num_finished} of {len(runs)} runs are finished\n\n{table}\nWrote {workdir}/report.md, report.json, {written}"
    )


def format_arms(study: StudyConfig, best: Mapping[str, Arm]) -> str:
    """Returns a Markdown table with a row per arm at its best learning rate."""
    head = [
        "arm",
        "lr",
        "parameters",
        "seeds",
        "validation loss",
        f"difference from {study.reference}",
        "escape step",
        f"step at the final loss of {study.reference}",
    ]
    configs = parse_arms(study)
    rows = []
    for name, arm in best.items():
        difference = _difference(study, best, arm)
        rows.append(
            [
                name,
                f"{arm.learning_rate:g}",
                f"{bert.size(configs[name].model):,}",
                str(len(arm.runs)),
                _format(average(arm.final_losses.values())),
                "" if difference is None else _format_difference(difference),
                _format_steps(escape_steps(study, best, arm)),
                _format_steps(steps_to_reference(study, best, arm)),
            ]
        )
    return render.markdown_table(head, rows)


def format_learning_rates(arms: Sequence[Arm]) -> str:
    """Returns a Markdown table of the final losses with a row per arm and a column per learning rate."""
    rates = sorted({arm.learning_rate for arm in arms})
    cells: dict[str, dict[float, str]] = {}
    for arm in arms:
        losses = arm.final_losses
        text = _format(average(losses.values())) if losses else ""
        diverged = f"{arm.num_diverged} diverged" if arm.num_diverged else ""
        cells.setdefault(arm.name, {})[arm.learning_rate] = ", ".join(filter(None, (text, diverged)))
    rows = [[name, *(by_rate.get(rate, "") for rate in rates)] for name, by_rate in cells.items()]
    return render.markdown_table(["arm", *(f"lr {rate:g}" for rate in rates)], rows)


def _describe(study: StudyConfig) -> str:
    base = study.base
    model = base.model
    steps = [
        f"{phase.num_steps:,} steps of {phase.config.data.batch_size} rows of {phase.config.model.length} tokens from "
        f"{phase.config.data.dir}"
        for phase in phases(base)
    ]
    return (
        f"The model has {model.layers} layers of {model.dim} with {model.heads} heads and {model.vocab_size:,} token "
        f"ids; a run takes {', then '.join(steps)}. Every arm has the seeds 0 to {study.seeds - 1}."
    )


def _explain(study: StudyConfig, best: Mapping[str, Arm]) -> str:
    """Returns what the columns of the table of arms mean."""
    plateau = plateau_loss(study, best)
    text = (
        "Losses are those of the last step in nats, mean ± standard deviation over seeds. A difference is the mean "
        f"over seeds of the difference from {study.reference} with the same seed, with its {CONFIDENCE:.0%} confidence "
        "interval."
    )
    if plateau is not None:
        text += (
            f" The escape step is the first validated step with a loss of at most {plateau - study.escape_margin:.3f}, "
            f"{study.escape_margin:g} below the final loss of {study.plateau}."
        )
    return text


def _difference(study: StudyConfig, best: Mapping[str, Arm], arm: Arm) -> Mean | None:
    """Returns the paired difference of final losses from the reference, None for the reference itself."""
    if arm.name == study.reference or study.reference not in best:
        return None
    return paired_difference(arm.final_losses, best[study.reference].final_losses)


def _format(mean: Mean) -> str:
    return f"{mean.mean:.3f}" + ("" if mean.deviation is None else f" ± {mean.deviation:.3f}")


def _format_difference(difference: Mean) -> str:
    interval = difference.interval()
    return f"{difference.mean:+.3f}" + (f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else "")


def _format_steps(steps: Mapping[int, int | None]) -> str:
    """Returns the mean step of the seeds that get there, and how many do if not all."""
    reached = [step for step in steps.values() if step is not None]
    if not steps:
        return ""
    if not reached:
        return "never"
    mean = average(map(float, reached))
    text = f"{mean.mean:,.0f}" + ("" if mean.deviation is None else f" ± {mean.deviation:,.0f}")
    return text if len(reached) == len(steps) else f"{text} ({len(reached)} of {len(steps)})"


def _to_json(study: StudyConfig, arms: Sequence[Arm], best: Mapping[str, Arm]) -> dict[str, Any]:
    summary = {}
    for name, arm in best.items():
        difference = _difference(study, best, arm)
        summary[name] = {
            "learning_rate": arm.learning_rate,
            "final_loss": average(arm.final_losses.values())._asdict(),
            "difference": difference and {**difference._asdict(), "interval": difference.interval()},
            "escape_steps": escape_steps(study, best, arm),
            "steps_to_reference": steps_to_reference(study, best, arm),
            "attention": {
                statistic: statistics.mean(layers[max(layers)])
                for statistic in STATISTICS
                if (layers := arm.diagnostics(statistic))
            },
        }
    return {
        "config": dataclasses.asdict(study),
        "plateau": plateau_loss(study, best),
        "arms": summary,
        "curves": [to_json(arm) for arm in arms],
    }
