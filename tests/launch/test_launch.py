"""The launch scripts, with every program outside replaced by `fake`, which notes how it was called."""

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROGRAMS = "gcloud kubectl docker git uv curl sbatch squeue scancel scontrol srun sudo systemctl sleep mkdir tail tar"
KNOBS = {
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
    "TMPDIR": "/tmp",
    "RESTART_AFTER": "0",
}
FLAG = "--config.wandb=it's & co"  # what a shell could break
QUOTED = r"'--config.wandb=it'\''s & co'"
Calls = list[list[str]]


class Project:
    """A copy of launch/ in a world of fakes, where every slice is there and nothing runs yet."""

    def __init__(self, folder: Path):
        self.root, self.fakes, self.answers = folder / "project", folder / "bin", folder / "answers"
        self.notes = folder / "calls"
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
        self.answer("systemctl is-active*", "3 inactive")
        self.answer("*ExecMainStatus*", "0 0")

    def answer(self, pattern: str, *lines: str) -> None:
        """Calls like `pattern` end with these codes and texts, one after another."""
        (self.answers / pattern).write_text("".join(f"{line}\n" for line in lines))

    def run(self, *command: str, **knobs: str) -> subprocess.CompletedProcess:
        """Runs `command` in the project with the usual knobs and `knobs`; an empty one is not set."""
        self.notes.write_text("")
        outer = {name: value for name, value in os.environ.items() if name not in ("SPOT", "COMMAND", "POLL")}
        here = {"PATH": f"{self.fakes}:{os.environ['PATH']}", "CALLS": str(self.notes), "ANSWERS": str(self.answers)}
        env = {name: value for name, value in (outer | KNOBS | here | knobs).items() if value}
        return subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True, timeout=60)

    def calls(self) -> Calls:
        return [note.split("\x1f")[:-1] for note in self.notes.read_text().split("\x1e")[:-1]]

    def steps(self) -> list[str]:
        """The calls in a word each."""
        words = ("create", "delete", "list-instances", "describe", "archive", "scp", "install", "start", "sleep")
        return [next(word for word in words if word in " ".join(call)) for call in self.calls()]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


VM = "--zone=us-east5-b --project=p"
TPU, MIG = "gcloud compute tpus", "gcloud compute instance-groups managed"
UNPACK = (
    "systemctl is-active --quiet symbert_jax || { mkdir -p symbert_jax && tar -xzf symbert_jax.tar.gz -C symbert_jax"
    " && cd symbert_jax && env JAX=tpu DATA=gs://b/corpus launch/local.sh install; }"
)
START = (
    "cd symbert_jax && env COMMAND=pretrain CONFIG=configs/base.py WORKDIR=gs://b/run DATA=gs://b/corpus"
    " launch/local.sh start -- "
)
HERE = "cd symbert_jax && launch/local.sh "
TRAIN = "-m symbert_jax pretrain --config=configs/base.py --workdir=gs://b/run --config.data.dir=data/corpus"
LIST = f"{MIG} list-instances bert {VM} --sort-by=name"
POOL = "--cluster=c --location=us-east5 --project=p"
KUBECTL = "kubectl --context=gke_p_us-east5_c"
JOBSET = "https://github.com/kubernetes-sigs/jobset/releases/download/v0.8.0/manifests.yaml"
ME = f"--user={getpass.getuser()} --name=bert"


def tpu(workers: str, line: str) -> str:
    return f"{TPU} tpu-vm ssh bert {VM} --worker={workers} {shlex.quote('--command=' + line)}"


def mig(*lines: str) -> list[str]:
    """One line for each host, or the same for all."""
    hosts = enumerate(lines * (4 // len(lines)))
    return [f"gcloud compute ssh bert-{i} {VM} {shlex.quote('--command=' + line)}" for i, line in hosts]


WANTED = {
    "tpu_vm create": [
        f"{TPU} queued-resources create bert --node-id=bert {VM} --accelerator-type=v6e-16"
        " --runtime-version=v2-alpha-tpuv6e --spot",
        f"{TPU} queued-resources describe bert {VM} '--format=value(state.state)'",
    ],
    "tpu_vm install": [
        "git archive --format=tar.gz --output=/tmp/bert.tar.gz HEAD",
        f"{TPU} tpu-vm scp /tmp/bert.tar.gz bert:symbert_jax.tar.gz {VM} --worker=all",
        tpu("all", UNPACK),
    ],
    "tpu_vm run": [tpu("all", START + QUOTED)],
    "tpu_vm logs": [tpu("0", HERE + "logs")],
    "tpu_vm stop": [tpu("all", HERE + "stop")],
    "tpu_vm delete": [f"{TPU} queued-resources delete bert {VM} --force --quiet"],
    "gce create": [
        "gcloud compute resource-policies create workload-policy bert --region=us-east5 --project=p"
        " --type=HIGH_THROUGHPUT --accelerator-topology=4x4",
        "gcloud compute instance-templates create bert --project=p --machine-type=ct6e-standard-4t"
        " --image-project=ubuntu-os-accelerator-images --image-family=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"
        " --boot-disk-size=200GB --scopes=cloud-platform --maintenance-policy=TERMINATE"
        " --provisioning-model=SPOT --instance-termination-action=STOP",
        f"{MIG} create bert {VM} --template=bert --size=4 --target-size-policy-mode=bulk"
        " --default-action-on-vm-failure=do-nothing"
        " --workload-policy=projects/p/regions/us-east5/resourcePolicies/bert",
        f"{LIST} '--format=value(instanceStatus)'",
    ],
    "gce install": [
        f"{LIST} '--format=value(name)'",
        "git archive --format=tar.gz --output=/tmp/bert.tar.gz HEAD",
        *(f"gcloud compute scp /tmp/bert.tar.gz bert-{host}:symbert_jax.tar.gz {VM}" for host in range(4)),
        *mig(UNPACK),
    ],
    "gce run": [
        f"{LIST} '--format=value(name)'",
        *mig(*(f"{START}--coordinator=bert-0:8476 --process={process} --processes=4 {QUOTED}" for process in range(4))),
    ],
    "gce logs": [f"{LIST} '--format=value(name)'", *mig(HERE + "logs")[:1]],
    "gce stop": [f"{LIST} '--format=value(name)'", *mig(HERE + "stop")],
    "gce delete": [
        f"{MIG} delete bert {VM} --quiet",
        "gcloud compute instance-templates delete bert --project=p --quiet",
        "gcloud compute resource-policies delete bert --region=us-east5 --project=p --quiet",
    ],
    "gke create": [
        f"gcloud container node-pools create bert {POOL} --node-locations=us-east5-b"
        " --machine-type=ct6e-standard-4t --tpu-topology=4x4 --num-nodes=4 --scopes=cloud-platform --spot",
        "gcloud container clusters get-credentials c --location=us-east5 --project=p",
        f"{KUBECTL} apply --server-side --filename={JOBSET}",
    ],
    "gke install": [
        "git archive HEAD",
        "docker build --tag=registry/image --file=launch/Dockerfile -",
        "docker push registry/image",
    ],
    "gke run": [f"{KUBECTL} create --filename=- JOBSET"],
    "gke logs": [
        f"{KUBECTL} logs --follow --tail=100 --container=train"
        " --selector=jobset.sigs.k8s.io/jobset-name=bert,batch.kubernetes.io/job-completion-index=0"
    ],
    "gke stop": [f"{KUBECTL} delete jobset bert --ignore-not-found"],
    "gke delete": [
        f"{KUBECTL} delete jobset bert --ignore-not-found",
        f"gcloud container node-pools delete bert {POOL} --quiet",
    ],
    "slurm install": [
        "uv venv --quiet --allow-existing --python=3.12 .venv",
        "uv pip install --quiet --python=.venv/bin/python --requirement=requirements.txt 'jax[cuda13]'",
        "mkdir -p data/corpus",
        "gcloud storage rsync gs://b/corpus data/corpus --recursive",
    ],
    "slurm run": [
        "mkdir -p runs",
        "sbatch --job-name=bert --nodes=1 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=8 --time=24:00:00"
        " --requeue --signal=TERM@300 --open-mode=append --output=runs/bert.log SCRIPT",
    ],
    "slurm logs": ["tail -n 100 -F runs/bert.log"],
    "slurm stop": [
        f"scancel {ME} --state=PENDING",
        f"squeue {ME} --noheader --format=%A",
        "scontrol update JobId=JOBID Requeue=0",
        "scancel --signal=TERM JOBID",
    ],
    "local install": [
        "uv venv --quiet --allow-existing --python=3.12 .venv",
        "uv pip install --quiet --python=.venv/bin/python --requirement=requirements.txt jax",
        "mkdir -p data/corpus",
        "gcloud storage rsync gs://b/corpus data/corpus --recursive",
    ],
    "local run": [f"python {TRAIN} {QUOTED}"],
    "local start": [
        "systemctl is-active symbert_jax",
        f"sudo systemd-run --quiet --unit=symbert_jax --uid={getpass.getuser()} --working-directory=ROOT"
        " --setenv=RESTARTS=10 --property=KillMode=mixed --property=TimeoutStopSec=10min"
        f" --property=LimitMEMLOCK=infinity ROOT/launch/restart.sh .venv/bin/python {TRAIN} {QUOTED}",
        "systemctl is-active symbert_jax",
        "systemctl show --property=ExecMainStatus --value symbert_jax",
    ],
    "local logs": ["sudo journalctl --unit=symbert_jax --output=cat --lines=100 --follow"],
    "local stop": ["sudo systemctl stop symbert_jax"],
}
WANTED["tpu_vm watch"] = [WANTED["tpu_vm create"][1], *WANTED["tpu_vm install"], *WANTED["tpu_vm run"]]
WANTED["gce watch"] = [WANTED["gce create"][3], *WANTED["gce install"], *WANTED["gce run"]]
RUNS = {"tpu_vm": "tpu-vm ssh", "gce": "compute ssh"}


def launch(project: Project, script: str, verb: str, *arguments: str, **knobs: str) -> subprocess.CompletedProcess:
    return project.run(
        f"launch/{script}.sh", verb, *arguments, "--", FLAG, **{"SPOT": "1", "IMAGE": image(script)} | knobs
    )


def image(script: str) -> str:
    return "registry/image" if script == "gke" else ""


def in_order(script: str, calls: Calls) -> Calls:
    return sorted(calls) if script in ("gce", "gke") else calls  # what runs side by side has none


@pytest.mark.parametrize("case", WANTED)
def test_a_verb_makes_the_wanted_calls_and_a_dry_run_prints_them(case: str, project: Project) -> None:
    script, verb = case.split()
    result = launch(project, script, verb)
    assert result.returncode == 0, result.stderr
    real = in_order(script, project.calls())
    wanted = [shlex.split(line.replace("ROOT", str(project.root))) for line in WANTED[case]]
    texts = [call.pop() for call in real if verb == "run" and call[0] in ("sbatch", "kubectl")]  # have their own tests
    assert [*real] == in_order(script, [[w for w in c if w not in ("JOBSET", "SCRIPT")] for c in wanted])

    printed = launch(project, script, verb, "--dry-run")
    assert printed.returncode == 0, printed.stderr
    assert not project.calls()
    pasted = project.run("bash", "-c", printed.stdout)
    assert pasted.returncode == 0, pasted.stderr
    again = in_order(script, project.calls())
    assert [call.pop() for call in again if verb == "run" and call[0] in ("sbatch", "kubectl")] == texts
    assert again == real


@pytest.mark.parametrize("script", RUNS)
def test_a_preempted_slice_is_made_again_and_the_run_goes_on(script: str, project: Project) -> None:
    gone = {"tpu_vm": "0 SUSPENDED", "gce": "0 RUNNING\\nTERMINATED\\nSTOPPING"}[script]
    there, waiting = {
        "tpu_vm": ("0 ACTIVE", "0 WAITING_FOR_RESOURCES"),
        "gce": ("0 RUNNING\\nRUNNING", "0 PENDING\\nPENDING"),
    }[script]
    query = {"tpu_vm": "*value(state.state)", "gce": "*value(instanceStatus)"}[script]
    project.answer(query, there, there, gone, waiting, there)
    project.answer("*local.sh start*", *["143"] * (4 if script == "gce" else 1), "0")
    assert launch(project, script, "watch").returncode == 0
    once = {
        "tpu_vm": ["archive", "scp", "install", "start"],
        "gce": ["list-instances", "archive", *["scp"] * 4, *["install"] * 4, "list-instances", *["start"] * 4],
    }[script]
    look = {"tpu_vm": "describe", "gce": "list-instances"}[script]
    parts = {"tpu_vm": 1, "gce": 3}[script]  # of what is deleted and created
    assert project.steps() == [
        *[look, *once, "sleep", look, "sleep", look],  # it says it is there for a while
        *["delete"] * parts,
        *["create"] * parts,
        *["sleep", look, "sleep", look, *once],
    ]


@pytest.mark.parametrize("script", RUNS)
@pytest.mark.parametrize(("status", "looks"), [(2, 2), (0, 1), (1, 5), (143, 5)])
def test_a_run_that_ended_on_a_slice_that_stays_is_not_begun_again(
    status: int, looks: int, script: str, project: Project
) -> None:
    project.answer("*local.sh start*", str(status))
    assert launch(project, script, "watch").returncode == status
    hosts = {"tpu_vm": 1, "gce": 4}[script]
    steps = project.steps()
    assert steps.count("start") == hosts and "delete" not in steps and "create" not in steps
    assert sum("ate)" in call[-1] or "Status)" in call[-1] for call in project.calls()) == looks


def test_a_lost_connection_is_taken_up_again(project: Project) -> None:
    project.answer("*local.sh start*", "255", "0")
    project.answer("*value(state.state)", "0 ACTIVE", "1 ERROR: no route to host", "0 ACTIVE")
    result = launch(project, "tpu_vm", "watch")
    assert result.returncode == 0 and "no route to host" in result.stderr
    once = ["archive", "scp", "install", "start"]
    assert project.steps() == ["describe", *once, "sleep", "describe", "sleep", "describe", *once]


def test_watch_asks_for_a_slice_that_does_not_exist(project: Project) -> None:
    project.answer("*value(state.state)", "1 ERROR: NOT_FOUND: no such thing", "0 ACTIVE")
    assert launch(project, "tpu_vm", "watch").returncode == 0
    assert project.steps()[:4] == ["describe", "create", "sleep", "describe"]


def test_create_gives_up_on_a_slice_that_failed(project: Project) -> None:
    project.answer("*value(state.state)", "0 PROVISIONING", "0 FAILED")
    result = launch(project, "tpu_vm", "create")
    assert result.returncode == 1 and "bert is FAILED" in result.stderr
    assert project.steps() == ["create", "describe", "sleep", "describe"]


def test_on_several_hosts_the_users_mistake_goes_before_their_other_statuses(project: Project) -> None:
    project.answer("*--process=1*", "2")
    project.answer("*local.sh start*", "1")
    assert launch(project, "gce", "run").returncode == 2


def test_delete_goes_on_where_a_part_is_missing(project: Project) -> None:
    project.answer("*managed delete*", "1 not found")
    assert launch(project, "gce", "delete").returncode == 1
    assert len(project.calls()) == 3


@pytest.mark.parametrize(
    ("script", "verb", "knobs", "message"),
    [
        *((script, "run", {"WORKDIR": ""}, "WORKDIR: found nothing") for script in ("tpu_vm", "gce", "gke", "slurm")),
        *((script, "stop", {"NAME": ""}, "NAME: found nothing") for script in ("tpu_vm", "gce", "gke", "slurm")),
        ("local", "run", {"CONFIG": ""}, "CONFIG: found nothing"),
        ("local", "start", {"CONFIG": ""}, "CONFIG: found nothing"),
        ("tpu_vm", "watch", {"CONFIG": ""}, "CONFIG: found nothing"),
        ("tpu_vm", "create", {"ACCELERATOR": ""}, "ACCELERATOR: found nothing"),
        ("tpu_vm", "watch", {"ACCELERATOR": "v9-8"}, "ACCELERATOR: found 'v9-8', wanted v4-…"),
        ("tpu_vm", "run", {"WORKDIR": "runs/x"}, "WORKDIR: found 'runs/x', wanted gs://"),
        ("gce", "watch", {"WORKDIR": "runs/x"}, "WORKDIR: found 'runs/x', wanted gs://"),
        ("gke", "run", {"WORKDIR": "runs/x"}, "WORKDIR: found 'runs/x', wanted gs://"),
        ("gce", "create", {"MACHINE": "n2-standard"}, "MACHINE: found 'n2-standard'"),
        ("gce", "create", {"TOPOLOGY": "16"}, "TOPOLOGY: found '16'"),
        ("gke", "create", {"ZONE": ""}, "ZONE: found nothing"),
        ("gke", "run", {"MACHINE": "ct9-x-4t"}, "MACHINE: found 'ct9-x-4t', wanted ct4p"),
        ("gke", "run", {"DATA": ""}, "DATA: found nothing"),
        ("gke", "install", {"IMAGE": ""}, "IMAGE: found nothing"),
        ("slurm", "run", {"COMMAND": "prepare"}, "COMMAND: found 'prepare', wanted pretrain or finetune"),
        ("tpu_vm", "run", {"COMMAND": "prepare"}, "COMMAND: found 'prepare', wanted pretrain or finetune"),
        ("local", "fly", {}, "command line: found 'fly', wanted one of install run"),
        ("gce", "--spot", {}, "command line: found '--spot'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    script: str, verb: str, knobs: dict[str, str], message: str, project: Project
) -> None:
    result = launch(project, script, verb, **knobs)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr and f"launch/{script}.sh --help" in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert not result.stdout and not project.calls()


@pytest.mark.parametrize("script", ["tpu_vm", "gce", "gke", "slurm", "local"])
def test_help_explains_every_verb(script: str, project: Project) -> None:
    result = project.run(f"launch/{script}.sh", "--help")
    assert result.returncode == 0 and not project.calls()
    explained = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert explained[: explained.index("NAME" if script != "local" else "CONFIG")] == [
        verb
        for verb in ("create", "install", "run", "start", "watch", "logs", "stop", "delete")
        if f"{script} {verb}" in WANTED
    ]


def test_where_a_tpu_is_buckets_can_be_read(project: Project) -> None:
    assert launch(project, "local", "install", JAX="tpu").returncode == 0
    assert project.calls()[1][-3:] == ["jax[tpu]", "gcsfs", "google-cloud-storage"]


def test_finetune_reads_the_copied_tasks(project: Project) -> None:
    assert launch(project, "local", "run", COMMAND="finetune").returncode == 0
    (call,) = project.calls()
    assert call[3] == "finetune" and call[-2:] == ["--config.glue.source=tsv:data/corpus", FLAG]


@pytest.mark.parametrize(
    ("answers", "restarts", "calls", "status"),
    [(["1", "139", "0"], "10", 3, 0), (["1"], "2", 3, 1), (["1", "2"], "10", 2, 2), (["1"], "0", 1, 1)],
)
def test_a_crash_is_followed_by_a_restart_a_mistake_is_not(
    answers: list[str], restarts: str, calls: int, status: int, project: Project
) -> None:
    project.answer("python*", *answers)
    assert launch(project, "local", "run", RESTARTS=restarts).returncode == status
    assert sum(call[0] == "python" for call in project.calls()) == calls


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_and_says_that_it_has_not_finished(number: signal.Signals) -> None:
    run = "trap 'echo saved; exit 0' TERM; echo begun; while :; do sleep 0.02; done"
    command = [ROOT / "launch" / "restart.sh", "bash", "-c", run]
    # what starts the tests in the background may have them ignore Ctrl-C, and bash cannot trap what it inherits so
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), "start_new_session": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **heard) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            process.send_signal(number)
            assert process.communicate(timeout=30)[0] == "saved\n"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 143


def test_a_stop_between_two_starts_is_the_end() -> None:
    command = [ROOT / "launch" / "restart.sh", "bash", "-c", "echo begun; exit 1"]
    env = os.environ | {"RESTART_AFTER": "60"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "exit code 1, starting again" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == "begun\n"
    assert process.returncode == 1


def test_the_program_itself_refuses_a_mistake_once(project: Project) -> None:
    python = project.root / ".venv" / "bin" / "python"
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    result = launch(project, "local", "run", CONFIG=str(ROOT / "configs" / "tiny.py"), PYTHONPATH=str(ROOT))
    assert result.returncode == 2 and not project.calls()
    assert result.stderr.startswith("error: command line: found ") and result.stderr.count("\n") == 1


def test_start_waits_for_a_service_that_runs_and_ends_as_it_did(project: Project) -> None:
    project.answer("systemctl is-active*", "0 active", "0 active", "3 deactivating", "3 failed")
    project.answer("*ExecMainStatus*", "0 2")
    assert launch(project, "local", "start").returncode == 2
    assert [" ".join(call[:2]) for call in project.calls()] == [
        "systemctl is-active",
        *["systemctl is-active", "sleep 30"] * 2,
        "systemctl is-active",
        "systemctl show",
    ]


def test_start_after_a_failure_begins_again(project: Project) -> None:
    project.answer("systemctl is-active*", "3 failed", "3 inactive")
    assert launch(project, "local", "start").returncode == 0
    assert [call[:3] for call in project.calls()][1:3] == [
        ["sudo", "systemctl", "reset-failed"],
        ["sudo", "systemd-run", "--quiet"],
    ]


@pytest.mark.parametrize(("script", "told"), [("tpu_vm", []), ("gce", ["--coordinator=bert-0:8476"])])
def test_hosts_read_their_lines_as_they_were_meant(script: str, told: list[str], project: Project) -> None:
    (project.root.parent / "symbert_jax").symlink_to(project.root)  # where a host has the code
    for verb, word in (("install", "jax[tpu]"), ("run", FLAG)):
        launch(project, script, verb)
        line = project.calls()[-1][-1].removeprefix("--command=")
        project.run("bash", "-c", f"cd .. && {line}", CONFIG="", WORKDIR="", DATA="")
        assert any(word in call for call in project.calls())
    (service,) = (call for call in project.calls() if call[0] == "sudo")
    train = shlex.split(TRAIN) + told
    assert service[service.index("-m") :][: len(train)] == train


@pytest.mark.parametrize(("ended", "requeued"), [("143", True), ("0", False), ("2", False), ("1", False)])
def test_a_slurm_job_that_was_stopped_queues_again(ended: str, requeued: bool, project: Project) -> None:
    launch(project, "slurm", "run")
    script = project.calls()[-1][-1]
    project.answer("srun*", ended)
    assert project.run("bash", "-c", script, SLURM_JOB_ID="17").returncode == int(ended)
    srun, *more = project.calls()
    assert srun == shlex.split(
        f"srun --cpus-per-task=8 --kill-on-bad-exit=0 launch/restart.sh .venv/bin/python {TRAIN} {QUOTED}"
    )
    assert more == ([["scontrol", "requeue", "17"]] if requeued else [])


def test_the_jobset_asks_for_the_slice_and_runs_the_command(project: Project) -> None:
    launch(project, "gke", "run")
    jobset = yaml.safe_load(project.calls()[-1][-1])
    assert jobset["metadata"]["name"] == "bert"
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (4, 4, 0)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-nodepool": "bert",
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    (train,), (data,) = pod["containers"], pod["initContainers"]
    assert train["image"] == "registry/image" and train["resources"] == {"limits": {"google.com/tpu": 4}}
    assert train["command"] == ["launch/restart.sh", "python", *shlex.split(TRAIN), FLAG]
    assert data["command"] == ["gcloud", "storage", "rsync", "gs://b/corpus", "data/corpus", "--recursive"]
    assert data["volumeMounts"] == train["volumeMounts"] == [{"name": "data", "mountPath": "/symbert_jax/data/corpus"}]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": train["name"], "operator": "In", "values": [2]}
    assert jobset["spec"]["failurePolicy"]["rules"][0]["action"] == "FailJobSet"


def test_shellcheck_finds_nothing() -> None:
    scripts = [str(path.relative_to(ROOT)) for path in (ROOT / "launch").glob("*.sh")]
    shellcheck = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run([shellcheck, "-x", *scripts, "tests/launch/fake"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
