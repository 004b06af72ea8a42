"""Reads and compares the files of two runs: arrays bit for bit, whatever their sharding; other files byte for byte."""

import filecmp
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]  # by the path in their tree


def saved_steps(workdir: Path) -> set[int]:
    """Returns the steps of the checkpoints that have their final name."""
    return {int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()}


def read_metrics(workdir: Path) -> list[dict]:
    """Returns the lines of metrics.jsonl without speeds; raises `ValueError` if one is not JSON."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if not name.startswith("speed/")} for line in lines]


def read_checkpoint(workdir: Path, step: int) -> Arrays:
    """Returns every parameter and moment; raises one of many kinds of errors if the checkpoint is damaged."""
    import jax
    import orbax.checkpoint as ocp

    import symbert_jax

    params, _ = symbert_jax.load(workdir, step)  # as users do; this verifies checksums
    folder = workdir / "checkpoints" / str(step) / "optimizer"
    with ocp.StandardCheckpointer() as checkpointer:
        shapes = checkpointer.metadata(folder).item_metadata.tree
        moments = checkpointer.restore(folder, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes))
    return _by_path({"params": params, "optimizer": moments})


read_reference_checkpoint = functools.cache(read_checkpoint)  # one reference is compared with many runs


def read_params(folder: Path) -> Arrays:
    """Returns the parameters that `finetune` saved; raises `UserError` if they are damaged."""
    from etils import epath

    from symbert_jax import checkpoint

    return _by_path(checkpoint.read_params(epath.Path(folder)))


def _by_path(tree: Any) -> Arrays:
    import jax

    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def differing_arrays(actual: Arrays, expected: Arrays) -> list[str]:
    """Returns the names of the arrays whose shape, type or bits differ, and of those that only one side has."""
    names = sorted(actual.keys() | expected.keys())
    return [name for name in names if _bits(actual.get(name)) != _bits(expected.get(name))]


def _bits(array: np.ndarray | None) -> tuple | None:
    return None if array is None else (array.shape, array.dtype, array.tobytes())


def differing_files(actual: Path, expected: Path, ignored: tuple[str, ...]) -> list[str]:
    """Describes the paths that only one of two folders has, and the files whose bytes differ.

    ignored: ends of the names of files and folders that are left out.
    """
    actual_paths, expected_paths = (_paths_below(folder, ignored) for folder in (actual, expected))
    found = [
        f"{path} is in {'this' if path in actual_paths else 'the other'} run only"
        for path in actual_paths ^ expected_paths
    ]
    found += [f"{path} differs" for path in actual_paths & expected_paths if _differ(actual / path, expected / path)]
    return sorted(found)


def _paths_below(folder: Path, ignored: tuple[str, ...]) -> set[Path]:
    """Returns the paths of the files and folders below a folder, relative to it, without ignored ones."""
    paths = {path.relative_to(folder) for path in folder.rglob("*")}
    return {path for path in paths if not any(part.endswith(ignored) for part in path.parts)}


def _differ(one: Path, other: Path) -> bool:
    if one.is_file() and other.is_file():
        return not filecmp.cmp(one, other, shallow=False)
    return one.is_file() != other.is_file()
