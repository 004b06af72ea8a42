"""The order of events of a pretraining run.

Batch i takes state i to state i + 1, and checkpoint s holds the state after s updates: the same command, run again,
resumes from the latest checkpoint exactly as if it had never stopped.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import jax
from etils import epath

from symbert_jax.checkpoint import Checkpoints
from symbert_jax.config import Config, corpus_changes, phases, to_json, values_by_name
from symbert_jax.data import tokenizer
from symbert_jax.data.corpus import Corpora, Corpus
from symbert_jax.data.stream import Stream, open_streams, run_batches
from symbert_jax.distributed import (
    Stop,
    check_shared,
    connect_devices,
    exit_on_lost_peer,
    is_main_process,
    same_on_all_processes,
    workdir_lock,
)
from symbert_jax.metrics import Clock, Metrics
from symbert_jax.model import bert, kernels
from symbert_jax.progress import Progress
from symbert_jax.sharding import local_row_indices, make_mesh, put_batches
from symbert_jax.storage import write_whole
from symbert_jax.train.doctor import check
from symbert_jax.train.events import Events, is_due
from symbert_jax.train.phases import OpenPhase, check_memory, flops_until, memory_limit, open_phases
from symbert_jax.train.start import restore_or_init, restore_window
from symbert_jax.train.state import State
from symbert_jax.train.trace import Trace
from symbert_jax.train.validate import check_targets, make_validation_step
from symbert_jax.train.window import Window


def pretrain(config: Config, workdir: epath.Path) -> None:
    """Trains to `config.train.steps`, from the latest checkpoint in `workdir` if there is one.

    SIGTERM, SIGHUP or Ctrl-C to any process ends the run with a checkpoint, after a step on which all processes agree.
    Before the first step, it ends the run without a new checkpoint.

    Raises:
      UserError: the config, the corpus, the workdir and the devices do not fit each other or are not the same on every
        process, another run uses the workdir, or the loss is not finite.
    """
    corpora = Corpora()
    with Stop() as stop, workdir_lock(workdir):
        with same_on_all_processes() as facts:
            check(config, corpora, workdir)
            mesh = make_mesh(config.mesh)
            streams = open_streams(config, corpora, functools.partial(local_row_indices, mesh=mesh))
            for phase, stream in zip(phases(config), streams, strict=True):
                check_targets(phase.config, stream)
            fingerprints = corpora.fingerprints(config)
            facts |= values_by_name(config) | {"data.dir": f"corpus {' '.join(each[:16] for each in fingerprints)}"}
        with (
            jax.set_mesh(mesh),
            contextlib.closing(
                Checkpoints(workdir, config.train, " ".join(fingerprints), corpus_changes(config))
            ) as checkpoints,
            exit_on_lost_peer(),
        ):
            connect_devices()
            check_shared(workdir)
            with same_on_all_processes() as facts:
                facts["workdir"] = checkpoints.latest()
            state = restore_or_init(config, corpora.of(config), checkpoints)
            start = int(state.step)
            if start < config.train.steps:
                if is_main_process():
                    write_run_files(config, corpora.of(config), workdir)
                with _open_events(config, workdir, streams, checkpoints, start) as events:
                    _train(events, state, start, stop)
            elif is_main_process():
                print(f"{workdir} is at step {start:,} of {config.train.steps:,} already: nothing to do")


def _train(events: Events, state: State, start: int, stop: Stop) -> None:
    """Trains from step `start` on. The order of the events matters; each comment says why."""
    train = events.config.train
    events.validate_if_missed(start, state)  # before the first update, which consumes the state
    streams = [opened.stream for opened in events.phases]
    batches = put_batches(run_batches(events.config, streams, start))
    for step in range(start + 1, train.steps + 1):
        batch = events.wait_for(batches)  # before waiting for the devices, so that both waits overlap
        state = events.update(step, state, batch)  # consumes the previous state, so all other events come after it
        if step == start + 1 or events.is_first_of_phase(step):
            events.start_clock(step)  # after the first step of a phase, which compiles
        if is_due(step, train.log_every, train.steps):
            events.log(step)  # before the checkpoint, which saves the sums since the last log point
        signal = stop.should_stop(step - start)  # after every step, because the processes agree on a step number
        loss = None
        # A signal leaves a due validation to the next start; no start follows the last step.
        if is_due(step, train.validate_every, train.steps) and (not signal or step == train.steps):
            loss = events.validate(step, state)  # before the checkpoint, which is kept if its loss is the best
        if is_due(step, train.checkpoint_every, train.steps) or signal:
            events.save(step, state, loss)  # last, because a restart repeats what follows a checkpoint
        if signal:
            events.progress.say(f"{signal}: saved step {step:,}; the same command resumes from it")
            break


@contextlib.contextmanager
def _open_events(
    config: Config, workdir: epath.Path, streams: Sequence[Stream], checkpoints: Checkpoints, start: int
) -> Iterator[Events]:
    """Opens the files and the progress bar of a run, prints the first lines of the run, and yields its events."""
    train, opened = config.train, open_phases(config, streams)
    work, worked = flops_until(opened, train.steps), flops_until(opened, start)
    with (
        contextlib.closing(Metrics(workdir, start, train.wandb)) as metrics,
        Progress("steps", train.steps, start, work=work, worked=worked, is_shown=is_main_process()) as progress,
        Trace(workdir, train.profile_steps) as trace,
    ):
        for line in _opening(config, opened, checkpoints, start):
            progress.say(line)
        if jax.default_backend() != "cpu":  # whose memory is unknown
            check_memory(config, opened, start, memory_limit(), progress)
        yield Events(
            config,
            opened,
            checkpoints,
            metrics,
            progress,
            trace,
            Window("train", restore_window(config, checkpoints, start)),
            Clock(start),
            make_validation_step(config, next((stream.pad for stream in streams if stream.pad is not None), None)),
        )


def write_run_files(config: Config, corpus: Corpus, workdir: epath.Path) -> None:
    """Writes the config and the tokenizer to the workdir, so that its checkpoints can be read without the corpus."""
    workdir.mkdir(parents=True, exist_ok=True)
    tokenizer.write(corpus.tokenizer, workdir)
    write_whole(workdir / "config.json", to_json(config))


def _opening(config: Config, opened: Sequence[OpenPhase], checkpoints: Checkpoints, start: int) -> Iterator[str]:
    """Yields the first lines of a run: the model, the devices, the rows, the first step; and a line for each phase."""
    origin, is_new = "", checkpoints.latest() is None
    if is_new and config.branch_from:
        origin = f", as a branch of {config.branch_from}"
    elif is_new and config.init_from:
        origin = f", with the parameters of {config.init_from}"
    mesh = jax.sharding.get_mesh()
    shape = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    device, lengths = mesh.abstract_mesh.abstract_device, [each.phase.config.model.length for each in opened]
    chosen = [kernels.choose(config.model, device, length, length) for length in lengths]
    attention = f"{' and '.join(dict.fromkeys(chosen))} attention"
    rows = _rows_text(opened[0]) if len(opened) == 1 else f"{len(opened)} phases"
    yield (
        f"{config.model.attention} BERT, {bert.size(config.model):,} parameters, "
        f"on {mesh.size} {mesh.devices.flat[0].device_kind} ({shape}), {attention}; "
        f"{rows}; from step {start:,}{origin}"
    )
    for each, kernel in zip(opened, chosen, strict=True) if len(opened) > 1 else []:
        batch_size, location = each.phase.config.data.batch_size, each.phase.config.data.dir
        attention = f", {kernel} attention" if len(set(chosen)) > 1 else ""
        rows = f"{_rows_text(each)} in {location}"
        yield f"until step {each.phase.steps.stop:,}: batches of {batch_size:,}, {rows}{attention}"


def _rows_text(opened: OpenPhase) -> str:
    """Returns the rows of the corpus of a phase, and how often the phase reads them."""
    count = len(opened.stream.train)
    epochs = opened.phase.num_steps * opened.phase.config.data.batch_size / count
    return f"{count:,} rows of {opened.phase.config.model.length} tokens, {epochs:.2g} epochs"
