"""Every command works that README, docs, `--help` and the docstrings of configs and benches show."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests import documents

# A page on which every command is wrong.
WRONG = """
`python -m symbert_jax pretrain --config=configs/mini.py --workdir=x --config.model.layes=2`
`python -m symbert_jax fill --checkpoint=nowhere "[MASK]"`
`--no_such_flag` and
`--config.learning_rates=fast`
`frobnicate now`
`make no-such-target`
`pip install jax[tpu]==0.1`
`python -m bench.peers --contenders nobody`
`bench.step_time --kernel=xla`
`make demo && frobnicate` is followed by
`frobnicate && make demo`
```sh
for run in a; do python -m symbert_jax compare --out=x $run; done
.venv/bin/python -m symbert_jax compile \\
  --config=configs/mini.py --topology=v5e:2x2 --config.model.dtype=int8
```
```
$ python -m symbert_jax doctor --config=configs/tiny.py --workdir=x
another answer
```
```python
import symbert_jax.no_such_module
```
```{code-cell}
:tags: [hide-output]

%%bash
frobnicate once more
```
"""
# The numbers of the lines of WRONG that are or begin a command, from 1.
WRONG_LINES = {*range(2, 13), 14, 15, 19, 22, 29}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The output of `tests.documented_commands`: the output of documents that failed, and the unused rules."""
    scripts = documents.scripts() | {"wrong": documents.markdown(WRONG, "wrong")}
    environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONWARNINGS": "ignore:os.fork"}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # many commands compile the same programs
    done = subprocess.run(
        [sys.executable, "-m", "tests.documented_commands", tmp_path_factory.mktemp("stand_in")],
        input=json.dumps(scripts),
        capture_output=True,
        text=True,
        timeout=600,
        cwd=documents.ROOT,
        env=os.environ | {"PYTHONPATH": str(documents.ROOT)} | environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_documented_commands_work(found: dict) -> None:
    failed = [f"{name}\n{output}" for name, output in found["failed"].items() if name != "wrong"]
    assert not failed, "\n".join(failed)


def test_every_rule_matches_a_documented_command(found: dict) -> None:
    assert not found["unused"]


def test_wrong_documented_commands_fail(found: dict) -> None:
    output = found["failed"]["wrong"]
    assert {int(line) for line in re.findall(r"^FAILED wrong:(\d+)", output, re.MULTILINE)} == WRONG_LINES, output


@pytest.mark.parametrize(
    "page", ["Run python -m symbert_jax.", "Or with --seed=1.", "```sh\nmake demo  # or with --jobs=2\n```"]
)
def test_documents_refuse_commands_where_nothing_runs_them(page: str) -> None:
    with pytest.raises(AssertionError, match=r"page:[12]: "):
        documents.markdown(f"{page}\n", "page")
