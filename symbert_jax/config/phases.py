"""The phases of a run: steps that share a corpus, a row length and a batch size.

Phases come from `train.phases`, such as `90000: model.length=128 data.dir=data/corpus_128`: until step 90,000 these
fields differ from the config, which describes the last phase. The first phase may begin with smaller batches,
`data.batch_warmup`; the steps with the same batch size are a phase, too.
"""

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from symbert_jax.config.changes import Changeable, with_change, with_values
from symbert_jax.config.schema import Config
from symbert_jax.errors import UserError

PHASE_FIELDS = ("model.length", "data.dir", "data.batch_size", "data.mask_rate", "optim.accumulate")
_CHANGEABLE = Changeable(
    lambda field: field in PHASE_FIELDS, f"one of {', '.join(PHASE_FIELDS)}", "other fields hold for the whole run"
)
_ONE_PHASE = {"train.phases": (), "data.batch_warmup": (), "data.batch_warmup_steps": 0}


class Phase(NamedTuple):
    """Steps of a run, and their config."""

    name: str  # the field and the entry that it comes from, for errors; empty for the config itself
    steps: range  # batch i takes state i to i + 1
    config: Config  # without phases of its own; `train` and `optim`, and so the learning rate, are those of the run
    first_row: int  # the rows of its corpus that earlier phases read

    @property
    def num_steps(self) -> int:
        return max(0, self.steps.stop - self.steps.start)  # `len` fails where train.steps is outside its limit

    @property
    def end_row(self) -> int:
        """The rows of its corpus that the run has read when the phase ends."""
        return self.first_row + self.num_steps * self.config.data.batch_size

    def named(self, problem: UserError) -> UserError:
        """Returns a problem of the phase's config, with the name of the phase."""
        what = f"{self.name}: {problem.what}" if self.name else problem.what
        return type(problem)(what, problem.found, problem.wanted, problem.hint)


@functools.cache
def phases(config: Config) -> tuple[Phase, ...]:
    """Returns the phases of a run in their order; at least one.

    Raises:
      UserError: `train.phases` or `data.batch_warmup` is wrong. The limits of the fields are not checked.
    """
    found: list[Phase] = []
    rows: dict[str, int] = {}  # the rows read so far, by corpus
    for name, steps, changed in _with_batch_warmup(config, list(_listed_phases(config))):
        phase = Phase(name, steps, with_values(changed, _ONE_PHASE), first_row=rows.get(changed.data.dir, 0))
        rows[changed.data.dir] = phase.end_row
        found.append(phase)
    return tuple(found)


def phase_of(config: Config, batch: int) -> Phase:
    """Returns the phase of a batch; the last phase also has the batches after the run."""
    return next((phase for phase in phases(config) if batch < phase.steps.stop), phases(config)[-1])


def tokens_until(config: Config, step: int, padding: Mapping[str, float] = MappingProxyType({})) -> int:
    """Returns the tokens of all batches before `step`, special tokens included.

    padding: the fraction of a corpus that is padding and not counted, by `data.dir`; by default, everything counts.
    """
    return round(
        sum(
            max(0, min(step, phase.steps.stop) - phase.steps.start)
            * tokens_per_batch(phase.config)
            * (1 - padding.get(phase.config.data.dir, 0.0))
            for phase in phases(config)
        )
    )


def tokens_per_batch(config: Config) -> int:
    return config.data.batch_size * config.model.length


def corpus_configs(config: Config) -> list[Config]:
    """Returns a config for each corpus of a run, in the order of their first use."""
    first: dict[str, Config] = {}
    for phase in phases(config):
        first.setdefault(phase.config.data.dir, phase.config)
    return list(first.values())


def rows_by_corpus(config: Config) -> Mapping[str, int]:
    """Returns the rows that a run reads of each corpus, by `data.dir`, in the order of their first use."""
    return {phase.config.data.dir: phase.end_row for phase in phases(config)}


def corpus_changes(config: Config) -> tuple[int, ...]:
    """Returns the steps after which a run reads another corpus than before."""
    pairs = itertools.pairwise(phases(config))
    return tuple(new.steps.start for old, new in pairs if old.config.data.dir != new.config.data.dir)


_Parsed = tuple[str, range, Config]  # name, steps, config


def _listed_phases(config: Config) -> Iterator[_Parsed]:
    """Yields the phases in `train.phases`, and the last one."""
    start = 0
    for text in config.train.phases:
        end, colon, changes = text.partition(":")
        # At most 10 digits, because `int` refuses very long numbers.
        stop = int(end) if re.fullmatch("[0-9]{1,10}", end.strip()) else -1
        if not colon or stop < 0:
            wanted = "STEP: FIELD=VALUE …, for example 90000: model.length=128 data.dir=data/corpus_128"
            raise UserError("train.phases", repr(text), wanted)
        if not start < stop < config.train.steps:
            wanted = f"a STEP above {start} and below train.steps={config.train.steps}"
            raise UserError("train.phases", repr(text), wanted, "a phase ends with its STEP, and the next begins")
        name, changed = f"train.phases: {stop}", config
        for change in changes.split():
            changed = with_change(changed, change, _CHANGEABLE, name)
        if changed.data.mask_rate != config.data.mask_rate and config.data.final_mask_rate:
            found = f"{changed.data.mask_rate:g} with data.final_mask_rate={config.data.final_mask_rate:g}"
            raise UserError(f"{name}: data.mask_rate", found, "a rate for each phase, or one schedule over all steps")
        yield name, range(start, stop), changed
        start = stop
    yield "", range(start, config.train.steps), config


def _with_batch_warmup(config: Config, listed: list[_Parsed]) -> Iterator[_Parsed]:
    """Yields a phase for each batch size of the warmup, then the rest of the first phase, and the others."""
    sizes, num_steps = config.data.batch_warmup, config.data.batch_warmup_steps
    name, steps, first = listed[0]
    if sizes or num_steps:
        size, accumulate = first.data.batch_size, first.optim.accumulate
        if not all(small < large for small, large in itertools.pairwise((*sizes, size))):
            found = ",".join(map(str, sizes))
            raise UserError("data.batch_warmup", found, f"sizes that rise to the first phase's data.batch_size={size}")
        if not len(sizes) <= num_steps < steps.stop or not sizes:
            wanted = f"from {len(sizes)} to {steps.stop - 1}: a step for each of the {len(sizes)} sizes, and one more"
            hint = "data.batch_warmup lists the sizes; data.batch_warmup_steps=0 without it disables the warmup"
            raise UserError("data.batch_warmup_steps", str(num_steps), wanted, hint)
        for i, small in enumerate(sizes):
            # No micro-batch has more rows than later ones, so that it fits into memory if they do.
            changes = {"data.batch_size": small, "optim.accumulate": -(-accumulate * small // size)}
            part = range(num_steps * i // len(sizes), num_steps * (i + 1) // len(sizes))
            yield f"data.batch_warmup: {small}", part, with_values(first, changes)
        steps = range(num_steps, steps.stop)
    yield name, steps, first
    yield from listed[1:]
