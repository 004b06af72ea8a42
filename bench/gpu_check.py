"""What this code does on one NVIDIA GPU: where a step takes its time, kernels against XLA, speed against Hugging Face,
fine-tuning, a killed run.

    python -m bench.gpu_check --glue=glue --vocab=vocab.txt --out=check

Each part is a process with a time limit; a part that fails leaves its log, and the others run. Writes
check/gpu_check.json with what the parts recorded, check/gpu_check.md with tables, and a log of each part.
`bench/gpu_check.sh` also installs what a machine without a network lacks. `--tiny` runs all parts in small on a CPU, to
try the script.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PYTHON = (sys.executable, "-u", "-m")
ROWS, TINY_ROWS = 32, 2  # rows of 512 tokens a step
TINY_MODEL = {"layers": 2, "dim": 64, "heads": 2, "mlp_dim": 128, "length": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glue", required=True, help="folder with the standard folders of GLUE, at least RTE")
    parser.add_argument("--vocab", required=True, help="the vocab.txt of bert-base-uncased")
    parser.add_argument("--out", required=True, type=Path, help="folder for the report")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, metavar="PART")
    parser.add_argument("--tiny", action="store_true", help="run everything in small, on a CPU")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in flags.parts:
        make, limit = PARTS[name]
        results[name] = run(make(flags), flags.out / f"{name}.log", limit)
        (flags.out / "gpu_check.json").write_text(json.dumps(results, indent=1) + "\n")
        (flags.out / "gpu_check.md").write_text(report(results))
    print((flags.out / "gpu_check.md").read_text())


# Commands of the parts.


def kernels(flags: argparse.Namespace) -> list[str]:
    return [*PYTHON, "bench.gpu_kernels", *(["--tiny"] if flags.tiny else [])]


def steps(config: str, kernels: str, flags: argparse.Namespace, unroll: int = 1) -> list[str]:
    """Returns the command that times the step of `config` with `kernels`."""
    command = [*PYTHON, "bench.step_time", f"--config=configs/{config}.py", f"--config.model.unroll={unroll}"]
    command += ["--rounds=4"]
    if not flags.tiny:
        return [*command, f"--kernels={kernels}", f"--config.data.batch_size={ROWS}"]
    sizes = [f"--config.model.{field}={value}" for field, value in TINY_MODEL.items()]
    return [*command, "--kernels=xla", f"--config.data.batch_size={TINY_ROWS}", *sizes]


def unrolled_step(flags: argparse.Namespace) -> list[str]:
    """Shows which kernels take the time of the step of `base`."""
    return [*steps("base", "triton", flags, unroll=0), "--attentions=standard", "--kernel-times=20"]


def fast_steps(flags: argparse.Namespace) -> list[str]:
    return steps("base_fast", "xla,cudnn", flags)


def paper_steps(flags: argparse.Namespace) -> list[str]:
    return steps("base", "xla,triton", flags)


def peers(flags: argparse.Namespace) -> list[str]:
    names = ["standard_bf16_fast", "symmetric_bf16_fast", "pairwise_bf16_fast", "standard_bf16", "pairwise_bf16"]
    names += ["hf_torch_bf16_compile_fast", "hf_torch_bf16_compile"]
    sizes = {"layers": 12, "dim": 768, "heads": 12, "mlp_dim": 3072, "length": 512}
    if flags.tiny:
        sizes, names = TINY_MODEL, ["standard_bf16_fast", "hf_torch_bf16_fast"]
    device, rows = ("cpu", TINY_ROWS) if flags.tiny else ("gpu", ROWS)
    command = [*PYTHON, "bench.peers", f"--device={device}", f"--batch={rows}", "--rounds=4", "--steps=5"]
    command += [f"--{field.replace('_', '-')}={value}" for field, value in sizes.items()]
    return [*command, "--contenders", *names]


def glue(flags: argparse.Namespace) -> list[str]:
    command = [*PYTHON, "bench.glue", f"--source=tsv:{flags.glue}", f"--vocab={flags.vocab}", "--task=rte"]
    if flags.tiny:
        return [*command, "--examples=32", "--rounds=1", "--contenders", "standard", "hf_longest_of_batch"]
    command += ["--device=gpu", "--examples=2490", "--rounds=2", "--together=5"]
    return [*command, "--contenders", "standard", "pairwise", "hf_run_glue", "hf_longest_of_batch"]


def resume(flags: argparse.Namespace) -> list[str]:
    return [*PYTHON, "bench.resume", "--kill-at=160", "--config=configs/tiny.py"]


# Each part: its command and the seconds it may take.
PARTS: dict[str, tuple[Callable[[argparse.Namespace], list[str]], int]] = {
    "unrolled_step": (unrolled_step, 200),
    "fast_steps": (fast_steps, 200),
    "paper_steps": (paper_steps, 120),
    "peers": (peers, 200),
    "glue": (glue, 120),
    "kernels": (kernels, 100),
    "resume": (resume, 90),
}


def run(command: list[str], log: Path, limit: int) -> dict:
    """Runs a part; returns what it recorded, with its seconds, or how it failed."""
    start = time.monotonic()
    # A part has a session of its own, so that the processes that it started end with it and free the GPU.
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True) as part,
    ):
        try:
            code = part.wait(limit)
            failure = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            os.killpg(part.pid, signal.SIGKILL)
            failure = f"stopped after {limit} seconds"
    records = [line for line in log.read_text(errors="replace").splitlines() if line.startswith('{"bench": ')]
    recorded = json.loads(records[-1]) if records else {}
    recorded["seconds"] = round(time.monotonic() - start)
    print(f"{log.stem}: {failure or 'done'} in {recorded['seconds']} s", flush=True)
    return recorded | ({"failure": failure} if failure else {})


# The report.


def report(results: dict[str, dict]) -> str:
    """Returns Markdown tables of what the parts recorded."""
    lines = ["| part | seconds | failed |", "|---|---|---|"]
    lines += [f"| {name} | {part['seconds']} | {part.get('failure', '')} |" for name, part in results.items()]
    for name in ("unrolled_step", "fast_steps", "paper_steps"):
        if contenders := results.get(name, {}).get("contenders"):
            shape = results[name]["shape"]
            title = f"A step of {shape['batch_size']} rows of {shape['length']} on one {results[name]['device']}"
            lines += ["", f"{title}, attention dropout {shape['attention_dropout']}:", ""]
            lines += ["| attention, kernel | ms | tokens/s | MFU | GiB |", "|---|---|---|---|---|"]
            lines += [step_row(contender, times) for contender, times in contenders.items()]
            for contender, times in contenders.items():
                if slowest := times.get("kernels"):
                    lines += ["", f"The slowest kernels of {contender}:", ""]
                    lines += ["| ms | calls | kernel | operation |", "|---|---|---|---|"]
                    lines += ["| " + " | ".join(map(str, row)) + " |" for row in slowest]
    if times := results.get("peers", {}).get("ms"):
        ratios = results["peers"]["times_first"]
        lines += [
            "",
            "A step beside Hugging Face's, in one run:",
            "",
            "| contender | ms | times the first |",
            "|---|---|---|",
        ]
        lines += [f"| {name} | {ms} | {ratios[name]} |" for name, ms in times.items()]
    if rte := results.get("glue", {}).get("rte"):
        lines += ["", "Fine-tuning on RTE, a trial:", "", "| contender | seconds |", "|---|---|"]
        lines += [f"| {name} | {seconds} |" for name, seconds in rte["seconds"].items()]
    for name in ("kernels", "resume"):
        if name in results:
            lines += ["", f"{name}: `{json.dumps(results[name])}`"]
    return "\n".join(lines) + "\n"


def step_row(name: str, times: dict) -> str:
    if "error" in times:
        return f"| {name} | {times['error']} | | | |"
    mfu = f"{times['mfu']:.1%}" if times["mfu"] else ""
    return f"| {name} | {times['ms']} | {times['tokens_per_second']:,} | {mfu} | {times['memory'] / 2**30:.1f} |"


if __name__ == "__main__":
    main()
