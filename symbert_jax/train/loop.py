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
from symbert_jax.distributed import Stop, agreed, connect, first, locked, require_shared
from symbert_jax.doctor import examine
from symbert_jax.errors import UserError
from symbert_jax.metrics import Metrics, Values
from symbert_jax.model import bert, kernels
from symbert_jax.model.flops import train_flops
from symbert_jax.sharding import make_mesh, put_batch, rows_here
from symbert_jax.storage import write_whole
from symbert_jax.train.optimizer import schedule
from symbert_jax.train.start import first_state
from symbert_jax.train.step import Sums, make_train_step
from symbert_jax.train.trace import Trace
from symbert_jax.train.validate import make_validation_step

AHEAD = 2  # batches put on the devices before they are needed


def pretrain(config: Config, workdir: epath.Path) -> None:
    """Trains to `config.train.steps`, from the latest checkpoint in `workdir` if there is one.

    SIGTERM, or an interrupt from the keyboard, of any process ends the run after the step in flight with a checkpoint.

    Raises:
      UserError: the config, the corpus, the workdir and the devices do not fit each other or are not the same on every
        process, or the loss is not a number.
    """
    with locked(workdir):
        with agreed() as facts:
            examine(config, workdir)
            train, mesh = config.train, make_mesh(config.mesh)
            stream = open_stream(config, rows_here(config.data.batch_size, mesh))
            facts |= fields(config) | {"data.dir": f"corpus {stream.fingerprint()[:16]}"}
        with jax.set_mesh(mesh), contextlib.closing(Checkpoints(workdir, train, stream.fingerprint())) as checkpoints:
            connect()
            require_shared(workdir)
            with agreed() as facts:
                facts["workdir"] = checkpoints.latest()
            state = first_state(config, checkpoints)
            start = int(state.step)
            if start >= train.steps:
                if first():
                    print(f"{workdir} is at step {start:,} of {train.steps:,} already: nothing to do")
                return
            if first():
                describe(config, workdir)
            train_step, validate = make_train_step(config), _validation(config, stream)
            batches = _on_device(stream.batches(start, train.steps, config.data.reader_threads))
            window: list[Sums] = []
            with (
                contextlib.closing(Metrics(workdir, start, train.steps, train.wandb)) as metrics,
                Trace(workdir, train.profile_steps) as trace,
                Stop() as stop,
            ):
                metrics.say(_opening(config, stream, mesh, start))
                for step in range(start + 1, train.steps + 1):
                    with metrics.wait(window[-1:]):
                        batch = next(batches)
                    jax.block_until_ready(window[-1:])  # one step ahead of the device; the host could run away
                    with trace.step(step, window[-1:]):
                        state, sums = train_step(state, batch)
                    window.append(sums)
                    if step == start + 1:  # it compiles, which is no speed
                        jax.block_until_ready(sums)
                        metrics.begin(step)
                    if _due(step, train.log_every, train.steps):
                        values = _averages(window, config, step) | metrics.speed(step, *_cost(config, stream, mesh))
                        window.clear()
                        _require_finite(values, "train/loss", step)
                        metrics.write(step, values)
                        metrics.report(step, values)
                    stopping, loss = stop.agreed(step - start), None
                    if _due(step, train.validate_every, train.steps) and (not stopping or step == train.steps):
                        with metrics.pause(sums):
                            values = validate(state.params)
                            _require_finite(values, LOSS, step)
                            metrics.write(step, values)
                            metrics.say(f"step {step:,} validation loss {(loss := values[LOSS]):.4f}")
                    if stopping and window:
                        _require_finite(_averages(window, config, step), "train/grad_norm", step)
                    if _due(step, train.checkpoint_every, train.steps) or stopping:
                        with metrics.pause(sums):
                            checkpoints.save(step, state.params, state.optimizer, config, loss)
                    if stopping:
                        metrics.say(f"{stopping}: saved step {step:,}; the same command goes on from there")
                        break


def _due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def _averages(window: list[Sums], config: Config, step: int) -> Values:
    """Means over the steps of `window`: positions weigh the same whichever batch they come from."""
    steps = jax.device_get(window)
    total = {name: float(sum(sums[name] for sums in steps)) for name in steps[0]}
    return {
        "train/loss": total["loss"] / total["count"],
        "train/accuracy": total["correct"] / total["count"],
        "train/grad_norm": total["grad_norm"] / len(steps),
        "train/learning_rate": float(schedule(config.optim, config.train.steps)(step - 1)),
    }


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


def _cost(config: Config, stream: Stream, mesh: jax.sharding.Mesh) -> tuple[int, float, float | None]:
    """Tokens and model FLOPs of a step, and the peak FLOP/s of all devices where it is known."""
    peak = peak_flops(mesh.devices.flat[0].device_kind)
    flops = train_flops(config.model, config.data.batch_size, stream.masking.places)
    return config.data.batch_size * config.model.length, flops, peak and peak * mesh.size


def describe(config: Config, workdir: epath.Path) -> None:
    """Leaves in the workdir what makes its checkpoints readable without the corpus."""
    workdir.mkdir(parents=True, exist_ok=True)
    tokenizer.write(tokenizer.read(find(config.data.dir) / VOCAB), workdir / VOCAB)
    write_whole(workdir / "config.json", to_json(config))


def _require_finite(values: Values, name: str, step: int) -> None:
    """Stops before a broken state replaces the good checkpoints: what is saved has been looked at."""
    if not math.isfinite(values[name]):
        raise UserError(
            name,
            f"{values[name]} at step {step}",
            "a finite number",
            "the checkpoints before it stand; lower optim.learning_rate or lengthen optim.warmup_steps",
        )


def _opening(config: Config, stream: Stream, mesh: jax.sharding.Mesh, start: int) -> str:
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
