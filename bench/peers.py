"""Train step beside Hugging Face's Flax and PyTorch BERT: one run, one batch, float32 on the CPU.

    make peers-env && .venv/bin/python -m bench.peers

A step is forward, backward, clipping, AdamW and schedule, with dropout. Where a peer has a choice (loss by
integer labels, fused AdamW) it gets the faster one; ours unrolls its layers; all get huge pages. Every contender
lives in a process of its own, built and warmed up before the clock starts, and they take turns of a few steps in
alternating order, so that a noisy machine is noisy for all. Prints one JSON line: median and least ms a step, and
the medians as multiples of ours with standard attention.
"""

import argparse
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from bench.contenders import Contenders, machine

VOCABULARY = 30522
MASK_RATE = 0.15
DROPOUT = 0.1
LEARNING_RATE, WARMUP_STEPS, TOTAL_STEPS = 1e-4, 100, 10_000
WEIGHT_DECAY, CLIP = 0.01, 1.0

Step = Callable[[], float]  # one update; returns the loss once all of it is done


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of the model and its batch; each field is a flag. The defaults are BERT-small."""

    batch: int = 8
    length: int = 128
    layers: int = 4
    dim: int = 512
    heads: int = 8
    mlp_dim: int = 2048


def masked_batch(shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, the masked positions of each row, and the ids that stood there."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1000, VOCABULARY, (shape.batch, shape.length), dtype=np.int32)
    order = rng.permuted(np.tile(np.arange(shape.length, dtype=np.int32), (shape.batch, 1)), axis=1)
    positions = np.sort(order[:, : round(MASK_RATE * shape.length)], axis=1)
    targets = np.take_along_axis(tokens, positions, axis=1)
    np.put_along_axis(tokens, positions, 103, axis=1)  # [MASK] of bert-base-uncased
    return tokens, positions, targets


def all_labels(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """The same batch as Hugging Face wants it: token ids and a label for every position, -100 where none."""
    tokens, positions, targets = masked_batch(shape)
    labels = np.full_like(tokens, -100)
    np.put_along_axis(labels, positions, targets, axis=1)
    return tokens, labels


def our_model(attention: str, shape: Shape):
    from symbert_jax import config

    return config.Model(
        attention=attention,
        layers=shape.layers,
        dim=shape.dim,
        heads=shape.heads,
        mlp_dim=shape.mlp_dim,
        length=shape.length,
        vocab_size=VOCABULARY,
        dropout=DROPOUT,
        attention_dropout=DROPOUT,
        dtype="float32",
        unroll=shape.layers,
    )


def ours(attention: str, shape: Shape) -> Step:
    import jax

    from symbert_jax import config, sharding
    from symbert_jax.batch import MlmBatch
    from symbert_jax.train import state, step

    model = our_model(attention, shape)
    optim = config.Optim(learning_rate=LEARNING_RATE, warmup_steps=WARMUP_STEPS, weight_decay=WEIGHT_DECAY, clip=CLIP)
    settings = config.Config(model=model, optim=optim, train=config.Train(steps=TOTAL_STEPS))
    jax.set_mesh(sharding.make_mesh(settings.mesh))
    tokens, positions, targets = masked_batch(shape)
    # as the loader does it: the width is a multiple of 8 and an unused place weighs nothing
    unused = ((0, 0), (0, -positions.shape[1] % 8))
    weights = np.pad(np.ones(positions.shape, np.float32), unused)
    batch = MlmBatch(tokens, np.pad(positions, unused), np.pad(targets, unused), weights)
    batch = sharding.put_batch(batch)
    train_step = step.make_train_step(settings)
    current = state.init(settings)

    def run() -> float:
        nonlocal current
        current, sums = jax.block_until_ready(train_step(current, batch))
        return float(sums["loss"] / sums["count"])

    return run


def hf_config(shape: Shape, **more: str):
    from transformers import BertConfig

    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.mlp_dim,
        max_position_embeddings=shape.length,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
        **more,
    )


def hf_flax(shape: Shape) -> Step:
    import jax
    import jax.numpy as jnp
    import optax
    from transformers import FlaxBertForMaskedLM

    model = FlaxBertForMaskedLM(hf_config(shape), seed=0, input_shape=(1, shape.length))
    up = optax.linear_schedule(0.0, LEARNING_RATE, WARMUP_STEPS)
    down = optax.linear_schedule(LEARNING_RATE, 0.0, TOTAL_STEPS - WARMUP_STEPS)
    schedule = optax.join_schedules([up, down], [WARMUP_STEPS])
    decayed = jax.tree.map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), model.params)
    optimizer = optax.chain(
        optax.clip_by_global_norm(CLIP),
        optax.adamw(schedule, weight_decay=WEIGHT_DECAY, mask=decayed),
    )

    def loss(params, tokens, labels, key):
        logits = model(tokens, params=params, dropout_rng=key, train=True).logits
        weights = labels >= 0
        each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(weights, labels, 0))
        return jnp.sum(each * weights) / jnp.sum(weights)

    def train_step(state, tokens, labels):
        params, moments, count = state
        key = jax.random.fold_in(jax.random.key(0), count)
        value, gradients = jax.value_and_grad(loss)(params, tokens, labels, key)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments, count + 1), value

    compiled = jax.jit(train_step, donate_argnums=0)
    batch = jax.device_put(all_labels(shape))
    state = jax.device_put((model.params, optimizer.init(model.params), 0))

    def run() -> float:
        nonlocal state
        state, value = jax.block_until_ready(compiled(state, *batch))
        return float(value)

    return run


def hf_torch(attention: str, shape: Shape) -> Step:
    import torch
    from transformers import BertForMaskedLM, get_linear_schedule_with_warmup

    torch.manual_seed(0)
    model = BertForMaskedLM(hf_config(shape, attn_implementation=attention)).train()
    decayed, plain = [], []  # biases and LayerNorm are vectors, all else is matrices
    for weight in model.parameters():
        (decayed if weight.ndim > 1 else plain).append(weight)
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)  # fused: as in transformers' Trainer
    schedule = get_linear_schedule_with_warmup(optimizer, WARMUP_STEPS, TOTAL_STEPS)
    tokens, labels = (torch.from_numpy(rows).long() for rows in all_labels(shape))

    def run() -> float:
        value = model(input_ids=tokens, labels=labels).loss
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return value.item()

    return run


CONTENDERS: dict[str, Callable[[Shape], Step]] = {
    "standard": functools.partial(ours, "standard"),
    "symmetric": functools.partial(ours, "symmetric"),
    "pairwise": functools.partial(ours, "pairwise"),
    "hf_flax": hf_flax,
    "hf_torch": functools.partial(hf_torch, "eager"),
    "hf_torch_sdpa": functools.partial(hf_torch, "sdpa"),
}
PEERS = ("hf_flax", "hf_torch", "hf_torch_sdpa")
PACKAGES = ("jax", "flax", "optax", "torch", "transformers")


def work(name: str, shape: Shape, warmup: int) -> None:
    """A contender's process: tells its versions when warm, then reads how many steps to run, line by line."""
    step = CONTENDERS[name](shape)
    for _ in range(warmup):
        step()
    found = {package: importlib.metadata.version(package) for package in PACKAGES if package in sys.modules}
    print(json.dumps(found), flush=True)
    for line in sys.stdin:
        milliseconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            loss = step()
            milliseconds.append(1e3 * (time.perf_counter() - start))
        print(json.dumps({"ms": milliseconds, "loss": loss}), flush=True)


def compare(names: list[str], flags: list[str], rounds: int, steps: int) -> dict:
    """Medians over `rounds` turns of `steps` steps each."""
    versions, times, loss = {}, {name: [] for name in names}, {}
    with Contenders("peers", names, PEERS, flags) as contenders:
        for name in names:
            versions.setdefault("peers" if name in PEERS else "ours", {}).update(contenders.ask(name))
        # a turn's first step finds caches full of another's data, so it does not count
        for name, found in contenders.turns(rounds, str(steps + 1)):
            times[name] += found["ms"][1:]
            loss[name] = found["loss"]
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "ms": {name: round(value, 1) for name, value in medians.items()},
        "least_ms": {name: round(min(values), 1) for name, values in times.items()},
        "times_standard": {name: round(value / medians["standard"], 2) for name, value in medians.items()},
        "loss": {name: round(value, 3) for name, value in loss.items()},
        "versions": versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__.partition("\n")[0])
    for field in dataclasses.fields(Shape):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    parser.add_argument("--sdpa", action="store_true", help="PyTorch's fused attention as one more contender")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each contender")
    parser.add_argument("--steps", type=int, default=5, help="steps of a turn")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the clock starts")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    shape = Shape(**{field.name: getattr(flags, field.name) for field in dataclasses.fields(Shape)})
    if flags.worker:
        return work(flags.worker, shape, flags.warmup)
    names = [name for name in CONTENDERS if flags.sdpa or name != "hf_torch_sdpa"]
    report = {
        "bench": "peers",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "shape": dataclasses.asdict(shape),
        "steps": flags.rounds * flags.steps,
    }
    print(json.dumps(report | compare(names, sys.argv[1:], flags.rounds, flags.steps)))


if __name__ == "__main__":
    main()
