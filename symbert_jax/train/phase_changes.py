"""What must not change when a run continues: the phases that are over, and the corpora that they have read."""

from collections.abc import Iterator, Sequence

from etils import epath

from symbert_jax.config import Config, phase_of, phases, rows_by_corpus, values_by_name
from symbert_jax.data.corpus import Corpora
from symbert_jax.errors import Advice, UserError

HINT = "use a new workdir, or restore the old value"

_FIXED_FIELDS = ("data.batch_size", "data.mask_rate")  # of every phase that is over or has begun


def phase_changes(config: Config, old_config: Config, workdir: epath.Path, step: int) -> Iterator[UserError]:
    """Yields an error for each field of a phase that had another value in one of the `step` batches so far."""
    starts = {phase.steps.start for each in (config, old_config) for phase in phases(each)}
    reported = set[str]()
    for start in sorted(start for start in starts if start < step):
        new, old = (values_by_name(phase_of(each, start).config) for each in (config, old_config))
        where = f" from step {start} on" if len(starts) > 1 else ""
        # `check_shapes` finds another model.length of a run of one phase.
        for field in (*_FIXED_FIELDS, *(("model.length",) if len(starts) > 1 else ())):
            if field not in reported and new[field] != old[field]:
                reported.add(field)
                wanted = f"{old[field]}, with which {workdir} reached step {step}"
                yield UserError(field, f"{new[field]}{where}", wanted, HINT)
        # A corpus may have moved, so its number in the order of use is compared; `_corpus_changes` compares the rows.
        (new_corpus, old_corpus) = (_corpus_number(each, start) for each in (config, old_config))
        if new_corpus != old_corpus and "data.dir" not in reported:
            reported.add("data.dir")
            wanted = f"{old['data.dir']}, with which {workdir} reached step {step}"
            yield UserError("data.dir", f"{new['data.dir']}{where}", wanted, HINT)


def _corpus_number(config: Config, batch: int) -> int:
    return list(rows_by_corpus(config)).index(phase_of(config, batch).config.data.dir)


def corpus_changes(
    config: Config, corpora: Corpora, workdir: epath.Path, step: int, recorded: Sequence[str], in_branch: bool
) -> Iterator[UserError]:
    """Yields an error for another corpus than a past phase read, an `Advice` in a branch or for a phase to come.

    recorded: the fingerprints of the corpora of the run that saved checkpoint `step`.
    """
    first_steps: dict[str, int] = {}
    for phase in phases(config):
        first_steps.setdefault(phase.config.data.dir, phase.steps.start)
    for (location, first), fingerprint in zip(first_steps.items(), recorded, strict=False):
        if corpora[location].fingerprint == fingerprint:
            continue
        found, wanted = f"a different corpus in {location}", f"the corpus with which {workdir} reached step {step}"
        if in_branch:
            yield Advice("data.dir", found, wanted, "the run continues with the new rows")
        elif first < step:
            start_anew = f"start a new run from here: a new --workdir and --config.init_from={workdir}@{step}"
            yield UserError("data.dir", found, wanted, f"name that corpus, or {start_anew}")
        else:
            wanted = f"the corpus that was there when {workdir} reached step {step}"
            yield Advice("data.dir", found, wanted, f"its phase begins at step {first:,} and reads the new one")
