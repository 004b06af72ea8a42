"""Time of a training step, compared with BERT of Hugging Face (Flax and PyTorch) and of KerasHub (on JAX).

    make peers-env && .venv/bin/python -m bench.peers
    .venv/bin/python -m bench.peers --contenders standard_bf16 hf_torch_bf16_compile --device=gpu

All contenders train on the same batch, each in a process of its own that has warmed up, in turns of a few steps and in
alternating order; all get huge pages. One whose name ends in _fast has no dropout of attention probabilities. Records
the median and the least time of a step in ms, and the medians as multiples of the first contender's. `bench/steps.py`
defines a step.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

from bench.contenders import Contenders
from bench.record import record, versions
from bench.steps import Step, Workload, hf_flax, hf_torch, keras_hub, ours

BF16 = "bfloat16"
OURS: dict[str, Callable[[Workload], Step]] = {
    "standard": partial(ours, "standard"),
    "symmetric": partial(ours, "symmetric"),
    "pairwise": partial(ours, "pairwise"),
    "standard_all_positions": partial(ours, "standard", pads_predictions=True),
    "standard_bf16": partial(ours, "standard", dtype=BF16),
    "symmetric_bf16": partial(ours, "symmetric", dtype=BF16),
    "pairwise_bf16": partial(ours, "pairwise", dtype=BF16),
}
PEERS: dict[str, Callable[[Workload], Step]] = {
    "hf_flax": hf_flax,
    "hf_flax_bf16": partial(hf_flax, dtype=BF16),
    "hf_torch": partial(hf_torch, "eager"),
    "hf_torch_sdpa": partial(hf_torch, "sdpa"),
    "hf_torch_compile": partial(hf_torch, "sdpa", compiled=True),
    "hf_torch_bf16": partial(hf_torch, "sdpa", dtype=BF16),
    "hf_torch_bf16_compile": partial(hf_torch, "sdpa", dtype=BF16, compiled=True),
    "keras_hub": keras_hub,
    "keras_hub_bf16": partial(keras_hub, dtype=BF16),
}


def without_attention_dropout(make: Callable[[Workload], Step], workload: Workload) -> Step:
    """Builds a step whose attention probabilities have no dropout, as in configs/base_fast.py."""
    return make(dataclasses.replace(workload, attention_dropout=0.0))


OURS |= {f"{name}_fast": partial(without_attention_dropout, make) for name, make in OURS.items()}
PEERS |= {f"{name}_fast": partial(without_attention_dropout, make) for name, make in PEERS.items()}
CONTENDERS = OURS | PEERS
DEFAULT = ("standard", "symmetric", "pairwise", "hf_flax", "hf_torch")
PACKAGES = ("jax", "flax", "optax", "torch", "transformers", "keras", "keras_hub")


def work(name: str, workload: Workload, warmup: int) -> None:
    """Runs a contender: warms up, prints the versions of its packages, then times as many steps as each line says."""
    step = CONTENDERS[name](workload)
    for _ in range(warmup):
        step()
    print(json.dumps(versions(package for package in PACKAGES if package in sys.modules)), flush=True)
    for line in sys.stdin:
        milliseconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            loss = step()
            milliseconds.append(1e3 * (time.perf_counter() - start))
        print(json.dumps({"ms": milliseconds, "loss": loss}), flush=True)


def compare(names: list[str], device: str, flags: list[str], rounds: int, steps: int) -> dict:
    """Times `rounds` turns of `steps` steps of each contender; returns what is recorded of them."""
    peer_versions, times, loss = {}, {name: [] for name in names}, {}
    with Contenders("peers", names, PEERS, flags, device) as contenders:
        for name in names:
            package_versions = contenders.ask(name)
            peer_versions |= package_versions if name in PEERS else {}
        # the first step of a turn finds caches full of another contender's data, so it does not count
        for name, turn in contenders.turns(rounds, str(steps + 1)):
            times[name] += turn["ms"][1:]
            loss[name] = turn["loss"]
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "ms": {name: round(value, 1) for name, value in medians.items()},
        "least_ms": {name: round(min(values), 1) for name, values in times.items()},
        "times_first": {name: round(value / medians[names[0]], 2) for name, value in medians.items()},
        "loss": {name: round(value, 3) for name, value in loss.items()},
        "peer_versions": peer_versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Workload):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    parser.add_argument("--contenders", nargs="+", default=DEFAULT, choices=CONTENDERS, metavar="NAME")
    parser.add_argument("--device", default="cpu", help="cpu | gpu")
    parser.add_argument("--rounds", type=int, default=6, help="turns per contender")
    parser.add_argument("--steps", type=int, default=5, help="steps per turn")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the first turn")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    workload = Workload(**{field.name: getattr(flags, field.name) for field in dataclasses.fields(Workload)})
    if flags.worker:
        return work(flags.worker, workload, flags.warmup)
    results = compare(flags.contenders, flags.device, sys.argv[1:], flags.rounds, flags.steps)
    record(
        "peers", device=flags.device, shape=dataclasses.asdict(workload), steps=flags.rounds * flags.steps, **results
    )


if __name__ == "__main__":
    main()
