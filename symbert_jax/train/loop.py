"""The order of events of a pretraining run.

Batch i takes state i to state i + 1, and checkpoint s holds the state after s updates: the same command, run again,
resumes from the latest checkpoint exactly as if it had never stopped.
"""

import contextlib
from collections.abc import Iterator

import jax
from etils import epath

from symbert_jax.checkpoint import Checkpoints
from symbert_jax.config import Config, to_json, values_by_name
from symbert_jax.data import tokenizer
from symbert_jax.data.corpus import Corpus
from symbert_jax.data.stream import Stream, open_stream
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
from symbert_jax.train.diagnose import make_diagnostics
from symbert_jax.train.doctor import check
from symbert_jax.train.events import Events, is_due
from symbert_jax.train.start import restore_or_init, restore_window
from symbert_jax.train.state import State
from symbert_jax.train.step import make_train_step
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
    corpus = Corpus(config.data.dir)
    with Stop() as stop, workdir_lock(workdir):
        with same_on_all_processes() as facts:
            check(config, corpus, workdir)
            mesh = make_mesh(config.mesh)
            stream = open_stream(config, corpus, local_row_indices(config.data.batch_size, mesh))
            check_targets(config, stream)
            facts |= values_by_name(config) | {"data.dir": f"corpus {corpus.fingerprint[:16]}"}
        with (
            jax.set_mesh(mesh),
            contextlib.closing(Checkpoints(workdir, config.train, corpus.fingerprint)) as checkpoints,
            exit_on_lost_peer(),
        ):
            connect_devices()
            check_shared(workdir)
            with same_on_all_processes() as facts:
                facts["workdir"] = checkpoints.latest()
            state = restore_or_init(config, corpus, checkpoints)
            start = int(state.step)
            if start < config.train.steps:
                if is_main_process():
                    write_run_files(config, corpus, workdir)
                with _open_events(config, workdir, stream, checkpoints, start) as events:
                    _train(events, state, start, stop)
            elif is_main_process():
                print(f"{workdir} is at step {start:,} of {config.train.steps:,} already: nothing to do")


def _train(events: Events, state: State, start: int, stop: Stop) -> None:
    """Trains from step `start` on. The order of the events matters; each comment says why."""
    train = events.config.train
    events.validate_if_missed(start, state)  # before the first update, which consumes the state
    batches = put_batches(events.stream.batches(start, train.steps, events.config.data.reader_threads))
    for step in range(start + 1, train.steps + 1):
        batch = events.wait_for(batches)  # before waiting for the devices, so that both waits overlap
        state = events.update(step, state, batch)  # consumes the previous state, so all other events come after it
        if step == start + 1:
            events.start_clock(step)  # after the first step, which compiles
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
    config: Config, workdir: epath.Path, stream: Stream, checkpoints: Checkpoints, start: int
) -> Iterator[Events]:
    """Opens the files and the progress bar of a run, prints the first line of the run, and yields its events."""
    train = config.train
    with (
        contextlib.closing(Metrics(workdir, start, train.wandb)) as metrics,
        Progress("steps", train.steps, start, is_shown=is_main_process()) as progress,
        Trace(workdir, train.profile_steps) as trace,
    ):
        progress.say(_opening(config, stream, checkpoints, start))
        yield Events(
            config,
            stream,
            checkpoints,
            metrics,
            progress,
            trace,
            Window("train", restore_window(config, checkpoints, start)),
            Clock(start),
            make_train_step(config, stream.may_lack_targets),
            make_validation_step(config),
            make_diagnostics(config, stream),
        )


def write_run_files(config: Config, corpus: Corpus, workdir: epath.Path) -> None:
    """Writes the config and the tokenizer to the workdir, so that its checkpoints can be read without the corpus."""
    workdir.mkdir(parents=True, exist_ok=True)
    tokenizer.write(corpus.tokenizer, workdir)
    write_whole(workdir / "config.json", to_json(config))


def _opening(config: Config, stream: Stream, checkpoints: Checkpoints, start: int) -> str:
    """Returns the first line of a run: the model, the devices, the rows, and the step that the run starts from."""
    origin, is_new = "", checkpoints.latest() is None
    if is_new and config.branch_from:
        origin = f", as a branch of {config.branch_from}"
    elif is_new and config.init_from:
        origin = f", with the parameters of {config.init_from}"
    mesh = jax.sharding.get_mesh()
    shape = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    epochs = config.train.steps * config.data.batch_size / len(stream.train)
    length, device = config.model.length, mesh.abstract_mesh.abstract_device
    kernel = kernels.choose(config.model, device, length, length)
    return (
        f"{config.model.attention} BERT, {bert.size(config.model):,} parameters, "
        f"on {mesh.size} {mesh.devices.flat[0].device_kind} ({shape}), {kernel} attention; "
        f"{len(stream.train):,} rows of {config.model.length} tokens, {epochs:.2g} epochs; from step {start:,}{origin}"
    )
