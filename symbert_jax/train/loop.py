"""The order of events of a pretraining run.

Batch i takes state i to state i + 1, checkpoint s holds the state after s updates: the same command, run
again, goes on from the latest checkpoint exactly as if it had never stopped.
"""

import collections
import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from etils import epath

from symbert_jax.batch import MlmBatch
from symbert_jax.checkpoint import LOSS, Checkpoints
from symbert_jax.config import Config, UserError, to_json
from symbert_jax.data.rows import VOCAB
from symbert_jax.data.stream import Stream, open_stream
from symbert_jax.metrics import Metrics, Values
from symbert_jax.model import bert
from symbert_jax.model.flops import peak_flops, train_flops
from symbert_jax.sharding import make_mesh, put_batch
from symbert_jax.train import state as states
from symbert_jax.train.optimizer import schedule
from symbert_jax.train.state import State
from symbert_jax.train.step import Sums, make_train_step
from symbert_jax.train.validate import make_validation_step

AHEAD = 2  # batches put on the device before they are needed; steps dispatched before one is waited for


def pretrain(config: Config, workdir: epath.Path) -> None:
    """Trains to `config.train.steps`, from the latest checkpoint in `workdir` if there is one.

    SIGTERM ends the run after the step in flight with a checkpoint.

    Raises:
      UserError: the config, the corpus and the checkpoint do not fit each other.
    """
    train = config.train
    mesh = make_mesh(config.mesh)
    _check_batch(config, mesh)
    with jax.set_mesh(mesh), _Sigterm() as sigterm:
        stream = open_stream(config, jax.process_index(), jax.process_count())
        checkpoints = Checkpoints(workdir, train)
        state = restore(config, checkpoints) or states.init(config)
        start = int(state.step)
        _describe(config, workdir)
        metrics = Metrics(workdir, start, train.steps, train.wandb)
        metrics.say(_opening(config, stream, state, mesh))
        train_step, validate = make_train_step(config), _validation(config, stream)
        batches = _on_device(stream.batches(start, train.steps, config.data.reader_threads))
        window: list[Sums] = []
        for step in range(start + 1, train.steps + 1):
            with metrics.wait():
                batch = next(batches)
            state, sums = train_step(state, batch)
            window.append(sums)
            if step == start + 1:  # it compiles, which is no speed
                jax.block_until_ready(sums)
                metrics.begin(step)
            if len(window) > AHEAD:  # or the host would run ahead without end
                jax.block_until_ready(window[-AHEAD])
            if _due(step, train.log_every, train.steps):
                values = _averages(window, config, step) | metrics.speed(step, *_cost(config, stream, mesh))
                metrics.write(step, values)
                metrics.report(step, values)
                window.clear()
            loss = None
            if _due(step, train.validate_every, train.steps):
                with metrics.pause():
                    values = validate(state.params)
                    metrics.write(step, values)
                    metrics.say(f"step {step:,} validation loss {(loss := values[LOSS]):.4f}")
            if _due(step, train.checkpoint_every, train.steps) or sigterm.received:
                with metrics.pause():
                    checkpoints.save(step, state.params, state.optimizer, config, loss)
            if sigterm.received:
                metrics.say(f"SIGTERM: saved step {step:,}; the same command goes on from there")
                break
        checkpoints.close()
        metrics.close()


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


def _check_batch(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Every device must get the same whole number of rows of every micro-batch."""
    parts = mesh.shape["data"] * config.optim.accumulate
    if config.data.batch_size % parts:
        raise UserError(
            "data.batch_size",
            str(config.data.batch_size),
            f"a multiple of {parts}",
            f"{mesh.shape['data']} devices share each of optim.accumulate={config.optim.accumulate} micro-batches",
        )


def _describe(config: Config, workdir: epath.Path) -> None:
    """Leaves in the workdir what makes its checkpoints readable without the corpus."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(to_json(config))
    (workdir / VOCAB).write_text((Path(config.data.dir) / VOCAB).read_text(encoding="utf-8"))


def _opening(config: Config, stream: Stream, state: State, mesh: jax.sharding.Mesh) -> str:
    shape = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    epochs = config.train.steps * config.data.batch_size / len(stream.train)
    return (
        f"{config.model.attention} BERT, {bert.size(config.model):,} parameters, "
        f"on {mesh.size} {mesh.devices.flat[0].device_kind} ({shape}); "
        f"{len(stream.train):,} rows of {config.model.length} tokens, {epochs:.2g} epochs; "
        f"from step {int(state.step):,}"
    )


class _Sigterm:
    """Notes a SIGTERM instead of dying of it, for as long as the context lasts."""

    received = False

    def __enter__(self) -> "_Sigterm":
        self.before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self.before)

    def _note(self, *_: object) -> None:
        self.received = True
