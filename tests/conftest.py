"""Gives every test 8 CPU devices, checks the array shapes in annotations at run time, and makes tiny test inputs."""

import dataclasses
import functools
import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Tests compile much and compute little, so optimizing the programs costs more time than it saves.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):  # newer versions do not have this flag
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

# Commands that train restart once if this is not set: that takes as long as an import, and a fork cannot do it.
os.environ.setdefault("GLIBC_TUNABLES", "")

# All tests and the programs they start share one cache of compiled programs. Workers of xdist inherit it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="symbert_jax_xla_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

DEFAULT_HANDLERS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGTERM: signal.SIG_DFL,
}


def stop_ignoring_signals() -> None:
    """Tests in the background (`nohup make test &`) ignore signals, and so would all processes that they start."""
    for number, handler in DEFAULT_HANDLERS.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


stop_ignoring_signals()

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
import flax.nnx  # noqa: E402, F401  the import hook would ignore the bytecode of what is imported under it
import optax  # noqa: E402, F401
import orbax.checkpoint  # noqa: E402, F401
import tensorflow_datasets  # noqa: E402, F401

install_import_hook("symbert_jax", "beartype.beartype")

from symbert_jax.batch import MlmBatch  # noqa: E402
from symbert_jax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimConfig, TrainConfig, check  # noqa: E402
from symbert_jax.data import rows  # noqa: E402
from symbert_jax.data.manifest import write_manifest  # noqa: E402
from symbert_jax.data.prepare.packing import cut_rows  # noqa: E402
from symbert_jax.data.tokenizer import Normalization, WordPiece  # noqa: E402
from symbert_jax.data.vocabulary import SPECIAL, UNK, VOCAB  # noqa: E402
from symbert_jax.model import bert  # noqa: E402
from symbert_jax.sharding import make_mesh  # noqa: E402
from tests.bucket import bucket  # noqa: E402, F401  a fixture
from tests.storage import storage  # noqa: E402, F401  a fixture

WORDS = [*SPECIAL, *(f"w{i}" for i in range(95))]
TOKENIZER = WordPiece(tuple(WORDS), Normalization())
TINY = Config(
    model=ModelConfig(layers=2, dim=32, heads=4, mlp_dim=64, length=16, vocab_size=128, dtype="float32"),
    data=DataConfig(batch_size=16),
    optim=OptimConfig(learning_rate=1e-2, warmup_steps=5),
    train=TrainConfig(steps=100),
)


def configure(**changes: object) -> Config:
    """Returns the tiny config with some fields changed: `configure(model={"attention": "pairwise"}, seed=1)`."""
    sections = {
        name: dataclasses.replace(getattr(TINY, name), **change) if isinstance(change, dict) else change
        for name, change in changes.items()
    }
    config = dataclasses.replace(TINY, **sections)
    check(config)
    return config


# The files that take longest, in this order. They come first, so that no worker of xdist begins a long one at the end.
LONGEST = (
    *("train/test_loop", "train/test_pod", "test_documented_commands", "train/test_step", "study/test_study"),
    *("eval/test_finetune", "eval/test_processes", "model/test_bert", "model/test_kernels", "model/test_attention"),
    *("data/prepare/test_beam", "estimate/test_programs", "model/test_architecture", "interop/test_transformers"),
    *("train/test_branch", "interop/test_multilingual", "test_chaos", "train/test_phases", "eval/test_golden"),
    *("test_golden", "model/test_classifier", "distributed/test_cluster"),
)


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # otherwise xdist begins with the files that have the most tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the longest files to the front, and exempts from garbage collection what the imports have made."""
    tests = Path(__file__).parent
    order = {tests / f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    stop_ignoring_signals()  # the end of a command that a fixture or a test ran in this process ignores all signals


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    stop_ignoring_signals()


@pytest.fixture
def mesh() -> Iterator[jax.sharding.Mesh]:
    """Makes a mesh of one device the current one, and returns it."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        yield mesh


@functools.cache
def init_params_numpy(model: ModelConfig) -> bert.Params:
    """Returns initial parameters as numpy arrays. Models with the same parameters share them."""
    canonical = dataclasses.replace(model, kernel="xla", remat="none", unroll=1, dtype="float32")
    if canonical != model:
        return init_params_numpy(canonical)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        return jax.tree.map(np.asarray, bert.init(model, MeshConfig(), jax.random.key(0)))


def make_batch(config: Config, seed: int = 0, rows: int | None = None) -> MlmBatch:
    """Returns random rows with 4 positions to predict in each. The last of them has weight 0 in every other row."""
    rng = np.random.default_rng(seed)
    rows = rows or config.data.batch_size
    tokens = rng.integers(0, config.model.vocab_size, (rows, config.model.length), dtype=np.int32)
    positions = np.stack([rng.permutation(config.model.length)[:4] for _ in range(rows)]).astype(np.int32)
    weights = np.ones((rows, 4), np.float32)
    weights[::2, -1] = 0
    return MlmBatch(tokens, positions, np.take_along_axis(tokens, positions, axis=1), weights)


def write_corpus(
    folder: Path, *, words: list[str] = WORDS, length: int = 16, num_rows: int = 64, unknown: tuple[int, int] = (0, 0)
) -> Path:
    """Writes a prepared corpus of random rows; returns its folder.

    words: the vocabulary, in the order of the token ids.
    length: the tokens of a row.
    num_rows: the number of training rows; a quarter as many are for validation.
    unknown: the numbers of training and of validation rows that contain only [UNK] between [CLS] and [SEP].
    """
    folder.mkdir()
    (folder / VOCAB).write_text("".join(f"{word}\n" for word in words))
    rng, counts, dtype = np.random.default_rng(0), {}, rows.row_dtype(len(words))
    for split, count, num_unknown in (("train", num_rows, unknown[0]), ("validation", num_rows // 4, unknown[1])):
        tokens = rng.integers(5, len(words), count * (length - 2), dtype=dtype)
        tokens[: num_unknown * (length - 2)] = SPECIAL.index(UNK)
        file = folder / rows.file_name(split, 0)
        rows.write_file(file, [cut_rows(tokens, length, cls=2, sep=3)], rows.record_header(length, dtype))
        counts[split] = count
    rows.write_info(folder, length, dtype, {split: [count] for split, count in counts.items()})
    write_manifest(folder, {"length": length, "splits": {split: {"rows": count} for split, count in counts.items()}})
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of configs/tiny.py: docstrings of the standard library, in rows of 32 tokens, with 512 token ids."""
    from configs.tiny import get_config
    from symbert_jax.config import freeze
    from symbert_jax.data.prepare.command import prepare

    config = get_config()
    config.data.dir = str(tmp_path_factory.mktemp("data") / "tiny")
    prepare(freeze(config))
    return Path(config.data.dir)
