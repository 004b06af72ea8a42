"""The commands that each verb of each launch script runs."""

import getpass
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.conftest import FLAG, QUOTED, ROOT, TRAIN, Calls, Project, launch

SCOPE = "--zone=us-east5-b --project=p"
SSH_OPTIONS = "--ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oConnectTimeout=30"
SCP_OPTIONS = SSH_OPTIONS.replace("ssh", "scp")
TPU, GROUP = "gcloud compute tpus", "gcloud compute instance-groups managed"
INSTALL = (
    "systemctl is-active --quiet symbert_jax || { mkdir -p symbert_jax && tar -xzf symbert_jax.tar.gz -C symbert_jax"
    " && cd symbert_jax && env JAX=tpu DATA=gs://b/corpus launch/local.sh install; }"
)
START = (
    "cd symbert_jax && env COMMAND=pretrain CONFIG=configs/base.py WORKDIR=gs://b/run DATA=gs://b/corpus"
    " JAX_COORDINATOR_PORT=8476 launch/local.sh start -- "
)
ON_HOST = "cd symbert_jax && launch/local.sh "
LIST = f"{GROUP} list-instances bert {SCOPE} --sort-by=name"
POOL = "--cluster=c --location=us-east5 --project=p"
KUBECTL = "kubectl --context=gke_p_us-east5_c"
XPK = f"--cluster=c {SCOPE}"
JOBSET = "https://github.com/kubernetes-sigs/jobset/releases/download/v0.8.0/manifests.yaml"
POD = f"exec launch/restart.sh python {TRAIN.replace('data/corpus', 'gs://b/corpus')} {QUOTED}"
MY_JOB = f"--user={getpass.getuser()} --name=bert"


def tpu_command(workers: str, line: str) -> str:
    return f"{TPU} tpu-vm ssh bert {SCOPE} {SSH_OPTIONS} --worker={workers} {shlex.quote('--command=' + line)}"


def group_commands(*lines: str) -> list[str]:
    """Returns the commands that run `lines` on the four hosts: one line on each, or the same line on all."""
    hosts = enumerate(lines * (4 // len(lines)))
    return [
        f"gcloud compute ssh bert-{i} {SCOPE} {SSH_OPTIONS} {shlex.quote('--command=' + line)}" for i, line in hosts
    ]


# The calls of each verb. As last words, JOBSET and SCRIPT stand for a program's input. ROOT is the project's folder.
EXPECTED = {
    "tpu_vm create": [
        f"{TPU} queued-resources create bert --node-id=bert {SCOPE} --accelerator-type=v6e-16"
        " --runtime-version=v2-alpha-tpuv6e --spot",
        f"{TPU} queued-resources describe bert {SCOPE} '--format=value(state.state)'",
    ],
    "tpu_vm install": [
        "git archive --format=tar.gz --output=/tmp/bert.tar.gz HEAD",
        f"{TPU} tpu-vm scp /tmp/bert.tar.gz bert:symbert_jax.tar.gz {SCOPE} {SCP_OPTIONS} --worker=all",
        tpu_command("all", INSTALL),
    ],
    "tpu_vm run": [tpu_command("all", START + QUOTED)],
    "tpu_vm logs": [tpu_command("0", ON_HOST + "logs")],
    "tpu_vm stop": [tpu_command("all", ON_HOST + "stop")],
    "tpu_vm delete": [f"{TPU} queued-resources delete bert {SCOPE} --force --quiet"],
    "gce create": [
        "gcloud compute resource-policies create workload-policy bert --region=us-east5 --project=p"
        " --type=HIGH_THROUGHPUT --accelerator-topology=4x4",
        "gcloud compute instance-templates create bert --project=p --machine-type=ct6e-standard-4t"
        " --image-project=ubuntu-os-accelerator-images --image-family=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"
        " --boot-disk-size=200GB --scopes=cloud-platform --maintenance-policy=TERMINATE"
        " --provisioning-model=SPOT --instance-termination-action=STOP",
        f"{GROUP} create bert {SCOPE} --template=bert --size=4 --target-size-policy-mode=bulk"
        " --default-action-on-vm-failure=do-nothing"
        " --workload-policy=projects/p/regions/us-east5/resourcePolicies/bert",
        f"{LIST} '--format=value(instanceStatus)'",
    ],
    "gce install": [
        f"{LIST} '--format=value(name)'",
        "git archive --format=tar.gz --output=/tmp/bert.tar.gz HEAD",
        *(
            f"gcloud compute scp /tmp/bert.tar.gz bert-{host}:symbert_jax.tar.gz {SCOPE} {SCP_OPTIONS}"
            for host in range(4)
        ),
        *group_commands(INSTALL),
    ],
    "gce run": [
        f"{LIST} '--format=value(name)'",
        *group_commands(
            *(f"{START}--coordinator=bert-0:8476 --process={process} --processes=4 {QUOTED}" for process in range(4))
        ),
    ],
    "gce logs": [f"{LIST} '--format=value(name)'", *group_commands(ON_HOST + "logs")[:1]],
    "gce stop": [f"{LIST} '--format=value(name)'", *group_commands(ON_HOST + "stop")],
    "gce delete": [
        f"{GROUP} delete bert {SCOPE} --quiet",
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
    "xpk create": [f"xpk cluster create {XPK} --tpu-type=v6e-16 --spot"],
    "xpk run": [
        f"xpk workload create {XPK} --workload=bert --tpu-type=v6e-16 --docker-image=registry/image"
        f" --docker-name=train {shlex.quote('--command=' + POD)} --env=RESTARTS=0 --max-restarts=100"
        " --restart-on-exit-codes=1,3-126 --termination-grace-period-seconds=600"
    ],
    "xpk stop": [f"xpk workload delete {XPK} --workload=bert"],
    "xpk delete": [f"xpk cluster delete {XPK}"],
    "slurm install": [
        "uv venv --quiet --allow-existing --python=3.12 .venv",
        "uv pip install --quiet --python=.venv/bin/python --requirement=requirements.txt 'jax[cuda13]'"
        " gcsfs google-cloud-storage",
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
        f"scancel {MY_JOB} --state=PENDING",
        f"squeue {MY_JOB} --noheader --format=%A",
        "scontrol update JobId=JOBID Requeue=0",
        "scancel --signal=TERM JOBID",
    ],
    "dataflow install": [
        "git archive HEAD",
        "docker build --tag=registry/image --build-arg=PYTHON=3.12 --file=launch/Dockerfile.dataflow -",
        "docker push registry/image",
    ],
    "dataflow run": [
        "python -m symbert_jax prepare --config=configs/base.py --config.data.dir=gs://b/corpus '--beam="
        "--runner=DataflowRunner --project=p --region=us-east5 --temp_location=gs://b/temp --job_name=bert"
        " --sdk_container_image=registry/image --sdk_location=container --worker_machine_type=ct6e-standard-4t"
        f" --max_num_workers=32' {QUOTED}"
    ],
    "dataflow jobs": ["gcloud dataflow jobs list --project=p --region=us-east5 --filter=name=bert"],
    "dataflow stop": [
        "gcloud dataflow jobs list --project=p --region=us-east5 --filter=name=bert --status=active"
        " '--format=value(id)'",
        "gcloud dataflow jobs cancel JOBID --project=p --region=us-east5",
    ],
    "local install": [
        "uv venv --quiet --allow-existing --python=3.12 .venv",
        "uv pip install --quiet --python=.venv/bin/python --requirement=requirements.txt jax"
        " gcsfs google-cloud-storage",
        "mkdir -p data/corpus",
        "gcloud storage rsync gs://b/corpus data/corpus --recursive",
    ],
    "local run": [f"python {TRAIN} {QUOTED}"],
    "local start": [
        "systemctl is-active symbert_jax",
        f"sudo systemd-run --quiet --unit=symbert_jax --uid={getpass.getuser()} --working-directory=ROOT"
        " --setenv=RESTARTS=10 --property=KillMode=mixed --property=TimeoutStopSec=10min"
        " --property=LimitMEMLOCK=infinity '--property=After=network.target nss-lookup.target'"
        f" ROOT/launch/restart.sh .venv/bin/python {TRAIN} {QUOTED}",
        "systemctl is-active symbert_jax",
        "systemctl show --property=ExecMainStatus --value symbert_jax",
    ],
    "local logs": ["sudo journalctl --unit=symbert_jax --output=cat --lines=100 --follow"],
    "local stop": ["sudo systemctl stop symbert_jax"],
}
EXPECTED["tpu_vm watch"] = [EXPECTED["tpu_vm create"][1], *EXPECTED["tpu_vm install"], *EXPECTED["tpu_vm run"]]
EXPECTED |= {f"xpk {verb}": EXPECTED[f"gke {verb}"] for verb in ("install", "logs")}
EXPECTED["gce watch"] = [EXPECTED["gce create"][3], *EXPECTED["gce install"], *EXPECTED["gce run"]]
NAMED = ("tpu_vm", "gce", "gke", "xpk", "slurm")  # scripts of `pretrain` that need NAME


def in_order(script: str, calls: Calls) -> Calls:
    """Sorts the calls of scripts that make some of them concurrently."""
    return sorted(calls) if script in ("gce", "gke", "xpk", "dataflow") else calls


@pytest.mark.parametrize("case", EXPECTED)
def test_verb_runs_its_commands_and_a_dry_run_prints_them(case: str, project: Project) -> None:
    script, verb = case.split()
    result = launch(project, script, verb)
    assert result.returncode == 0, result.stderr
    real = in_order(script, project.calls())
    expected = [shlex.split(line.replace("ROOT", str(project.root))) for line in EXPECTED[case]]
    # the last word is the input, which other tests check
    inputs = [call.pop() for call in real if verb == "run" and call[0] in ("sbatch", "kubectl")]
    assert [*real] == in_order(script, [[w for w in c if w not in ("JOBSET", "SCRIPT")] for c in expected])

    printed = launch(project, script, verb, "--dry-run")
    assert printed.returncode == 0, printed.stderr
    assert not project.calls()
    pasted = project.run("bash", "-c", printed.stdout)
    assert pasted.returncode == 0, pasted.stderr
    pasted_calls = in_order(script, project.calls())
    assert [call.pop() for call in pasted_calls if verb == "run" and call[0] in ("sbatch", "kubectl")] == inputs
    assert pasted_calls == real


def test_delete_continues_if_a_part_is_missing(project: Project) -> None:
    """The first of the three resources does not exist."""
    project.answer("*managed delete*", "1 not found")
    assert launch(project, "gce", "delete").returncode == 1
    assert len(project.calls()) == 3


@pytest.mark.parametrize(("script", "listing"), [("dataflow", "*value(id)"), ("slurm", "squeue*")])
def test_stop_fails_if_the_jobs_cannot_be_listed(script: str, listing: str, project: Project) -> None:
    """Otherwise a job seems to be stopped that still runs."""
    project.answer(listing, "1 permission denied")
    assert launch(project, script, "stop").returncode == 1


@pytest.mark.parametrize(
    ("script", "verb", "variables", "message"),
    [
        *((script, "run", {"WORKDIR": ""}, "WORKDIR: found nothing") for script in NAMED),
        *((script, "stop", {"NAME": ""}, "NAME: found nothing") for script in NAMED),
        ("local", "run", {"CONFIG": ""}, "CONFIG: found nothing"),
        ("local", "start", {"CONFIG": ""}, "CONFIG: found nothing"),
        ("tpu_vm", "watch", {"CONFIG": ""}, "CONFIG: found nothing"),
        ("tpu_vm", "create", {"ACCELERATOR": ""}, "ACCELERATOR: found nothing"),
        ("tpu_vm", "create", {"ACCELERATOR": "", "RUNTIME": "x"}, "ACCELERATOR: found nothing"),
        ("tpu_vm", "watch", {"ACCELERATOR": "v9-8"}, "ACCELERATOR: found 'v9-8', wanted v4-…"),
        ("tpu_vm", "run", {"WORKDIR": "runs/x"}, "WORKDIR: found 'runs/x', wanted gs://"),
        ("gce", "watch", {"WORKDIR": "runs/x"}, "WORKDIR: found 'runs/x', wanted gs://"),
        ("gke", "run", {"WORKDIR": "runs/x"}, "WORKDIR: found 'runs/x', wanted gs://"),
        ("gce", "create", {"MACHINE": "n2-standard"}, "MACHINE: found 'n2-standard'"),
        ("gce", "create", {"TOPOLOGY": "16"}, "TOPOLOGY: found '16'"),
        ("gke", "create", {"ZONE": ""}, "ZONE: found nothing"),
        ("gke", "run", {"MACHINE": ""}, "MACHINE: found nothing"),
        ("gke", "run", {"MACHINE": "ct9-x-4t"}, "MACHINE: found 'ct9-x-4t', wanted ct4p"),
        ("gke", "run", {"DATA": ""}, "DATA: found nothing"),
        ("gke", "install", {"IMAGE": ""}, "IMAGE: found nothing"),
        ("xpk", "create", {"CLUSTER": ""}, "CLUSTER: found nothing"),
        ("xpk", "create", {"ACCELERATOR": ""}, "ACCELERATOR: found nothing"),
        ("xpk", "run", {"ACCELERATOR": "v5e-16"}, "ACCELERATOR: found 'v5e-16', wanted v4-…"),
        ("xpk", "run", {"WORKDIR": "runs/x"}, "WORKDIR: found 'runs/x', wanted gs://"),
        ("xpk", "run", {"DATA": ""}, "DATA: found nothing"),
        ("xpk", "install", {"IMAGE": ""}, "IMAGE: found nothing"),
        ("slurm", "run", {"COMMAND": "prepare"}, "COMMAND: found 'prepare', wanted pretrain or finetune"),
        ("tpu_vm", "run", {"COMMAND": "prepare"}, "COMMAND: found 'prepare', wanted pretrain or finetune"),
        ("dataflow", "run", {"DATA": "data/corpus"}, "DATA: found 'data/corpus', wanted gs://"),
        ("dataflow", "run", {"TEMP": ""}, "TEMP: found nothing"),
        ("dataflow", "stop", {"REGION": ""}, "REGION: found nothing"),
        ("local", "fly", {}, "command line: found 'fly', wanted one of install run"),
        ("gce", "--spot", {}, "command line: found '--spot'"),
    ],
)
def test_user_error_is_one_line_and_exit_code_2(
    script: str, verb: str, variables: dict[str, str], message: str, project: Project
) -> None:
    result = launch(project, script, verb, **variables)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr and f"launch/{script}.sh --help" in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert not result.stdout and not project.calls()


@pytest.mark.parametrize("script", [*NAMED, "dataflow", "local"])
def test_help_explains_every_verb(script: str, project: Project) -> None:
    result = project.run(f"launch/{script}.sh", "--help")
    assert result.returncode == 0 and not project.calls()
    explained = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert explained[: explained.index("NAME" if script != "local" else "CONFIG")] == [
        verb
        for verb in ("create", "install", "run", "start", "watch", "jobs", "logs", "stop", "delete")
        if f"{script} {verb}" in EXPECTED
    ]


def test_install_adds_bucket_packages_if_needed(project: Project) -> None:
    assert launch(project, "local", "install", JAX="tpu", WORKDIR="").returncode == 0
    assert project.calls()[1][-3:] == ["jax[tpu]", "gcsfs", "google-cloud-storage"]
    assert launch(project, "local", "install", WORKDIR="runs/x").returncode == 0
    assert project.calls()[1][-1] == "jax"


def test_finetune_reads_the_copied_tasks(project: Project) -> None:
    assert launch(project, "local", "run", COMMAND="finetune").returncode == 0
    (call,) = project.calls()
    assert call[3] == "finetune" and call[-2:] == ["--config.glue.source=tsv:data/corpus", FLAG]


def test_xpk_finetune_reads_tasks_from_the_bucket(project: Project) -> None:
    assert launch(project, "xpk", "run", COMMAND="finetune").returncode == 0
    (call,) = project.calls()
    assert any(" --config.glue.source=tsv:gs://b/corpus " in word for word in call)


def test_xpk_creates_an_on_demand_slice_by_default(project: Project) -> None:
    assert launch(project, "xpk", "create", SPOT="").returncode == 0
    assert project.calls()[0][-1] == "--on-demand"


def test_shellcheck_finds_nothing() -> None:
    scripts = [str(path.relative_to(ROOT)) for path in (ROOT / "launch").glob("*.sh")]
    shellcheck = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run([shellcheck, "-x", *scripts, "tests/launch/fake"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
