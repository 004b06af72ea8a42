"""Every command of README, docs, config docstrings, benches and `--help` works."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests import documents
from tests.documents import ROOT


def check(folder: Path, scripts: dict[str, str]) -> dict[str, list[str]]:
    """What of the scripts failed, and which rules for their commands are not needed."""
    environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONWARNINGS": "ignore:os.fork"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.documented_commands", folder],
        **{"input": json.dumps(scripts), "capture_output": True, "text": True, "cwd": ROOT, "timeout": 300},
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_documented_commands_work(tmp_path: Path) -> None:
    found = check(tmp_path, documents.scripts())
    assert not found["failed"], "\n".join(found["failed"])
    assert not found["unused"]
