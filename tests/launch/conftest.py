"""Runs the launch scripts with `fake` in place of PROGRAMS and Python; `fake` records its calls."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = (
    "gcloud kubectl xpk docker git uv curl sbatch squeue scancel scontrol srun sudo systemctl sleep mkdir tail tar"
)
VARIABLES = {
    "NAME": "bert",
    "ZONE": "us-east5-b",
    "PROJECT": "p",
    "ACCELERATOR": "v6e-16",
    "MACHINE": "ct6e-standard-4t",
    "TOPOLOGY": "4x4",
    "CLUSTER": "c",
    "LOCATION": "us-east5",
    "CONFIG": "configs/base.py",
    "WORKDIR": "gs://b/run",
    "DATA": "gs://b/corpus",
    "REGION": "us-east5",
    "TEMP": "gs://b/temp",
    "TMPDIR": "/tmp",
    "RESTART_AFTER": "0",
}
FLAG = "--config.wandb=it's & co"  # its value must be quoted in a shell
QUOTED = r"'--config.wandb=it'\''s & co'"
Calls = list[list[str]]


class Project:
    """A copy of launch/ and its fake programs. By default all slices are active and no service is running."""

    def __init__(self, folder: Path):
        self.root, self.fakes, self.answers = folder / "project", folder / "bin", folder / "answers"
        self.record = folder / "calls"
        shutil.copytree(ROOT / "launch", self.root / "launch")
        for path in (self.fakes, self.answers, self.root / ".venv" / "bin"):
            path.mkdir(parents=True)
        for program in PROGRAMS.split():
            (self.fakes / program).symlink_to(Path(__file__).with_name("fake"))
        (self.root / ".venv" / "bin" / "python").symlink_to(Path(__file__).with_name("fake"))
        self.answer("*value(state.state)", "0 ACTIVE")
        self.answer("*value(instanceStatus)", "0 RUNNING\\nRUNNING\\nRUNNING\\nRUNNING")
        self.answer("*value(name)", "0 bert-0\\nbert-1\\nbert-2\\nbert-3")
        self.answer("squeue*", "0 JOBID")
        self.answer("*value(id)", "0 JOBID")
        self.answer("systemctl is-active*", "3 inactive")
        self.answer("*ExecMainStatus*", "0 0")

    def answer(self, pattern: str, *lines: str) -> None:
        """Sets the answers to the calls that match `pattern`, one line per call; further calls get the last line.

        A line is an exit code, and a text to print; one that begins with ERROR goes to stderr.
        """
        (self.answers / pattern).write_text("".join(f"{line}\n" for line in lines))

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess:
        """Runs a command in the project with VARIABLES and `variables`; an empty one is not set."""
        self.record.write_text("")
        unset = ("SPOT", "COMMAND", "POLL", "JAX_COORDINATOR_PORT")
        inherited = {name: value for name, value in os.environ.items() if name not in unset}
        fakes = {"PATH": f"{self.fakes}:{os.environ['PATH']}", "CALLS": str(self.record), "ANSWERS": str(self.answers)}
        env = {name: value for name, value in (inherited | VARIABLES | fakes | variables).items() if value}
        return subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True, timeout=60)

    def calls(self) -> Calls:
        """Returns the calls of fake programs during the last `run`, each as a list of words."""
        return [call.split("\x1f")[:-1] for call in self.record.read_text().split("\x1e")[:-1]]

    def steps(self) -> list[str]:
        """Returns a word for each call of the last `run`: the first of `words` that the call contains."""
        words = ("create", "delete", "list-instances", "describe", "archive", "scp", "install", "start", "sleep")
        return [next(word for word in words if word in " ".join(call)) for call in self.calls()]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


TRAIN = "-m symbert_jax pretrain --config=configs/base.py --workdir=gs://b/run --config.data.dir=data/corpus"


def launch(project: Project, script: str, verb: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Runs a verb of a launch script with FLAG, for a preemptible slice."""
    image = "registry/image" if script in ("gke", "xpk", "dataflow") else ""
    return project.run(f"launch/{script}.sh", verb, *arguments, "--", FLAG, **{"SPOT": "1", "IMAGE": image} | variables)
