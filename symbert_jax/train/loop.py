"""The order of events of a pretraining run.

Batch i takes state i to state i + 1, checkpoint s holds the state after s updates: the same command, run
again, goes on from the latest checkpoint exactly as if it had never stopped.
"""

import collections
import contextlib
import itertools
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from etils import epath

from symbert_jax.batch import MlmBatch
from symbert_jax.checkpoint import LOSS, Checkpoints
from symbert_jax.config import Config, UserError, from_json, to_json
from symbert_jax.data.rows import VOCAB
from symbert_jax.data.stream import Stream, open_stream
from symbert_jax.data.vocabulary import read as read_vocabulary
from symbert_jax.metrics import Metrics, Values, write_whole
from symbert_jax.model import bert, kernels
from symbert_jax.model.flops import peak_flops, train_flops
from symbert_jax.sharding import make_mesh, put_batch
from symbert_jax.train import state as states
from symbert_jax.train.optimizer import schedule
from symbert_jax.train.state import State
from symbert_jax.train.step import Sums, make_train_step
from symbert_jax.train.validate import make_validation_step

AHEAD = 2  # batches put on the devices before they are needed


def pretrain(config: Config, workdir: epath.Path) -> None:
    """Trains to `config.train.steps`, from the latest checkpoint in `workdir` if there is one.

    SIGTERM, or an interrupt from the keyboard, ends the run after the step in flight with a checkpoint.

    Raises:
      UserError: the config, the corpus and the workdir do not fit each other, or the loss is not a number.
    """
    train, mesh = config.train, make_mesh(config.mesh)
    check_mesh(config, mesh)
    stream = open_stream(config, jax.process_index(), jax.process_count())
    with jax.set_mesh(mesh), contextlib.closing(Checkpoints(workdir, train)) as checkpoints:
        check_same_run(config, stream, workdir, checkpoints.latest())
        state = restore(config, checkpoints) or states.init(config)
        start = int(state.step)
        if start >= train.steps:
            return print(f"{workdir} is at step {start:,} of {train.steps:,} already: nothing to do")
        describe(config, workdir)
        train_step, validate = make_train_step(config), _validation(config, stream)
        batches = _on_device(stream.batches(start, train.steps, config.data.reader_threads))
        window: list[Sums] = []
        with contextlib.closing(Metrics(workdir, start, train.steps, train.wandb)) as metrics, _Stop() as stop:
            metrics.say(_opening(config, stream, mesh, start))
            for step in range(start + 1, train.steps + 1):
                with metrics.wait(window[-1:]):
                    batch = next(batches)
                jax.block_until_ready(window[-1:])  # one step ahead of the device; the host could run away
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
                stopping, loss = stop.received, None
                if _due(step, train.validate_every, train.steps) and not stopping:
                    with metrics.pause(sums):
                        values = validate(state.params)
                        _require_finite(values, LOSS, step)
                        metrics.write(step, values)
                        metrics.say(f"step {step:,} validation loss {(loss := values[LOSS]):.4f}")
                if _due(step, train.checkpoint_every, train.steps) or stopping:
                    with metrics.pause(sums):
                        checkpoints.save(step, state.params, state.optimizer, config, loss)
                if stopping:
                    metrics.say(f"{stopping}: saved step {step:,}; the same command goes on from there")
                    break


def restore(config: Config, checkpoints: Checkpoints) -> State | None:
    """The state of the latest checkpoint on the current mesh, None where there is none."""
    if (step := checkpoints.latest()) is None:
        return None
    target = states.abstract(config)
    items = checkpoints.restore(step, params=target.params, optimizer=target.optimizer)
    return State(jax.device_put(jax.numpy.int32(step), target.step.sharding), items["params"], items["optimizer"])


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


def check_mesh(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Every device must get the same whole number of rows of every micro-batch, and of columns with FSDP, and be
    one that `model.kernel` runs on."""
    kernels.check(config.model, mesh.abstract_mesh.abstract_device)
    devices, accumulate = mesh.shape["data"], config.optim.accumulate
    if config.data.batch_size % (devices * accumulate):
        raise UserError(
            "data.batch_size",
            str(config.data.batch_size),
            f"a multiple of {devices * accumulate}",
            f"{devices} devices share each of optim.accumulate={accumulate} micro-batches",
        )
    if config.mesh.fsdp and config.model.dim % devices:
        raise UserError("model.dim", str(config.model.dim), f"a multiple of the {devices} devices of mesh.fsdp")


def check_same_run(config: Config, stream: Stream, workdir: epath.Path, step: int | None) -> None:
    """A run that goes on must be the run that began: same words, same data order, same optimizer."""
    if step is None:
        return
    before, mend = from_json((workdir / "config.json").read_text()), "take a new workdir, or set it back"
    for field, found, wanted in (
        ("seed", config.seed, before.seed),
        ("data.batch_size", config.data.batch_size, before.data.batch_size),
        ("data.mask_rate", config.data.mask_rate, before.data.mask_rate),
        ("optim.name", config.optim.name, before.optim.name),
    ):
        if found != wanted and step > 0:  # an import has not begun
            raise UserError(field, str(found), f"{wanted}, with which {workdir} came to step {step}", mend)
    if stream.masking.vocabulary != read_vocabulary(workdir / VOCAB):
        raise UserError("data.dir", f"another vocabulary in {config.data.dir}", f"that of {workdir}/{VOCAB}", mend)


def describe(config: Config, workdir: epath.Path) -> None:
    """Leaves in the workdir what makes its checkpoints readable without the corpus."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_whole(workdir / VOCAB, (Path(config.data.dir) / VOCAB).read_text(encoding="utf-8"))
    write_whole(workdir / "config.json", to_json(config))


def _require_finite(values: Values, name: str, step: int) -> None:
    """Stops before a broken state replaces the good checkpoints: each of these has been validated."""
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
    return (
        f"{config.model.attention} BERT, {bert.size(config.model):,} parameters, "
        f"on {mesh.size} {mesh.devices.flat[0].device_kind} ({shape}), {kernel} attention; "
        f"{len(stream.train):,} rows of {config.model.length} tokens, {epochs:.2g} epochs; from step {start:,}"
    )


class _Stop:
    """Notes a SIGTERM or a first Ctrl-C instead of dying of it, for as long as the context lasts."""

    received = ""  # the signal's name

    def __enter__(self) -> "_Stop":
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.received = signal.Signals(number).name
        signal.signal(signal.SIGINT, self.before[signal.SIGINT])  # a second Ctrl-C is meant
