"""The order of events of a pretraining run.

Batch i takes state i to state i + 1, checkpoint s holds the state after s updates: the same command, run
again, goes on from the latest checkpoint exactly as if it had never stopped.
"""

import collections
import contextlib
import itertools
import math
from collections.abc import Callable, Iterator

import jax
from etils import epath

from symbert_jax.batch import MlmBatch
from symbert_jax.checkpoint import LOSS, Checkpoints
from symbert_jax.chips import peak_flops
from symbert_jax.config import Config, fields, to_json
from symbert_jax.data import tokenizer
from symbert_jax.data.rows import VOCAB, find
from symbert_jax.data.stream import Stream, open_stream
from symbert_jax.distributed import Stop, agreed, connect, exit_on_lost_peer, first, from_first, locked, require_shared
from symbert_jax.doctor import examine
from symbert_jax.errors import UserError
from symbert_jax.metrics import Metrics, Values
from symbert_jax.model import bert, kernels
from symbert_jax.model.flops import train_flops
from symbert_jax.sharding import make_mesh, put_batch, rows_here
from symbert_jax.storage import write_whole
from symbert_jax.train.optimizer import schedule
from symbert_jax.train.start import first_state
from symbert_jax.train.state import State
from symbert_jax.train.step import make_train_step
from symbert_jax.train.trace import Trace
from symbert_jax.train.validate import check_targets, make_validation_step
from symbert_jax.train.window import Window

AHEAD = 2  # batches put on the devices before they are needed


def pretrain(config: Config, workdir: epath.Path) -> None:
    """Trains to `config.train.steps`, from the latest checkpoint in `workdir` if there is one.

    SIGTERM, SIGHUP, or an interrupt from the keyboard, of any process ends the run after the step in flight with a
    checkpoint.

    Raises:
      UserError: the config, the corpus, the workdir and the devices do not fit each other or are not the same on every
        process, another run uses the workdir, or the loss is not a number.
    """
    with Stop() as stop, locked(workdir):
        with agreed() as facts:
            examine(config, workdir)
            mesh = make_mesh(config.mesh)
            stream = open_stream(config, rows_here(config.data.batch_size, mesh))
            check_targets(config, stream)
            facts |= fields(config) | {"data.dir": f"corpus {stream.fingerprint()[:16]}"}
        with (
            jax.set_mesh(mesh),
            contextlib.closing(Checkpoints(workdir, config.train, stream.fingerprint())) as checkpoints,
            exit_on_lost_peer(),
        ):
            connect()
            require_shared(workdir)
            with agreed() as facts:
                facts["workdir"] = checkpoints.latest()
            state = first_state(config, checkpoints)
            if (start := int(state.step)) < config.train.steps:
                _train(config, workdir, stream, checkpoints, state, start, stop)
            elif first():
                print(f"{workdir} is at step {start:,} of {config.train.steps:,} already: nothing to do")


def _train(
    config: Config, workdir: epath.Path, stream: Stream, checkpoints: Checkpoints, state: State, start: int, stop: Stop
) -> None:
    """The steps from `start` on. What happens after a step, and in which order, is what the loop at the end says."""
    train, validation = config.train, _validation(config, stream)
    train_step = make_train_step(config, stream.may_lack_targets)
    window = Window(checkpoints.window(start) if start else {})
    if first():
        describe(config, workdir)
    with (
        contextlib.closing(Metrics(workdir, start, train.steps, train.wandb)) as metrics,
        Trace(workdir, train.profile_steps) as trace,
    ):

        def log(step: int) -> None:
            values = window.averages()
            values["train/learning_rate"] = float(schedule(config.optim, train.steps)(step - 1))
            window.clear()
            _require_finite(values, step)
            values |= metrics.speed(step, *_cost(config, stream))
            metrics.write(step, values)
            metrics.report(step, values)

        def validate(step: int) -> float:
            with metrics.pause(window.last):
                values = validation(state.params)
                _require_finite(values, step)
                metrics.write(step, values)
                metrics.say(f"step {step:,} validation loss {values[LOSS]:.4f}")
            return values[LOSS]

        def save(step: int, loss: float | None) -> None:
            with metrics.pause(window.last):
                total = window.total()
                _require_finite({f"train/{name}": value for name, value in total.items()}, step)
                checkpoints.save(step, state.params, state.optimizer, config, loss, total)

        metrics.say(_opening(config, stream, start))
        checkpoints.losses |= metrics.values(LOSS)
        if start and _due(start, train.validate_every, train.steps) and from_first(start not in checkpoints.losses):
            checkpoints.losses[start] = validate(start)  # a signal came before it
        batches = _on_device(stream.batches(start, train.steps, config.data.reader_threads))
        for step in range(start + 1, train.steps + 1):
            with metrics.wait(window.last):
                batch = next(batches)
            jax.block_until_ready(window.last)  # one step ahead of the device; the host could run away
            with trace.step(step, window.last):
                state, sums = train_step(state, batch)
            window.add(sums)
            if step == start + 1:  # it compiles, which is no speed
                jax.block_until_ready(sums)
                metrics.begin(step)
            if _due(step, train.log_every, train.steps):
                log(step)
            loss, stopping = None, stop.should_stop(step - start)
            if _due(step, train.validate_every, train.steps) and (not stopping or step == train.steps):
                loss = validate(step)  # before the checkpoint, which is kept if it is the best
            if _due(step, train.checkpoint_every, train.steps) or stopping:
                save(step, loss)  # at once where a signal has come: who goes on validates
            if stopping:
                metrics.say(f"{stopping}: saved step {step:,}; the same command goes on from there")
                break


def _due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def _validation(config: Config, stream: Stream) -> Callable[[bert.Params], Values]:
    validation_step = make_validation_step(config)

    def validate(params: bert.Params) -> Values:
        batches = _on_device(stream.validation_batches(config.train.validate_batches))
        parts = jax.device_get([validation_step(params, batch) for batch in batches])
        total = {name: float(sum(part[name] for part in parts)) for name in parts[0]}
        return {LOSS: total["loss"] / total["count"], "validation/accuracy": total["correct"] / total["count"]}

    return validate


def _on_device(batches: Iterator[MlmBatch]) -> Iterator[MlmBatch]:
    """The same batches on the devices; transfers run `AHEAD` of their use."""
    queue = collections.deque(put_batch(batch) for batch in itertools.islice(batches, AHEAD))
    while queue:
        yield queue.popleft()
        queue.extend(put_batch(batch) for batch in itertools.islice(batches, 1))


def _cost(config: Config, stream: Stream) -> tuple[int, float, float | None]:
    """Tokens and model FLOPs of a step, and the peak FLOP/s of all devices where it is known."""
    mesh = jax.sharding.get_mesh()
    peak = peak_flops(mesh.devices.flat[0].device_kind)
    flops = train_flops(config.model, config.data.batch_size, stream.masking.places)
    return config.data.batch_size * config.model.length, flops, peak and peak * mesh.size


def describe(config: Config, workdir: epath.Path) -> None:
    """Leaves in the workdir what makes its checkpoints readable without the corpus."""
    workdir.mkdir(parents=True, exist_ok=True)
    tokenizer.write(tokenizer.read(find(config.data.dir) / VOCAB), workdir / VOCAB)
    write_whole(workdir / "config.json", to_json(config))


def _require_finite(values: Values, step: int) -> None:
    """Stops before a broken state replaces the good checkpoints: what is saved has been looked at."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                name,
                f"{value} at step {step}",
                "a finite number",
                "the checkpoints before it stand; lower optim.learning_rate or lengthen optim.warmup_steps",
            )


def _opening(config: Config, stream: Stream, start: int) -> str:
    mesh = jax.sharding.get_mesh()
    shape = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    epochs = config.train.steps * config.data.batch_size / len(stream.train)
    length, device = config.model.length, mesh.abstract_mesh.abstract_device
    kernel = kernels.choose(config.model, device, length, length)
    origin = f", with the parameters of {config.init_from}" if config.init_from and not start else ""
    return (
        f"{config.model.attention} BERT, {bert.size(config.model):,} parameters, "
        f"on {mesh.size} {mesh.devices.flat[0].device_kind} ({shape}), {kernel} attention; "
        f"{len(stream.train):,} rows of {config.model.length} tokens, {epochs:.2g} epochs; from step {start:,}{origin}"
    )
