"""Commands that the launch scripts run on hosts, in jobs and in services, and their exit codes."""

import shlex

import pytest
import yaml

from tests.launch.conftest import FLAG, QUOTED, TRAIN, Project, launch


def test_user_error_of_one_host_is_the_exit_code_of_all(project: Project) -> None:
    """Host 1 ends with 2, a user error, and the other hosts with 1."""
    project.answer("*--process=1*", "2")
    project.answer("*local.sh start*", "1")
    assert launch(project, "gce", "run").returncode == 2


def test_start_waits_for_a_service_and_returns_its_status(project: Project) -> None:
    """The service runs already when `start` is called, and ends with exit code 2."""
    project.answer("systemctl is-active*", "0 active", "0 active", "3 deactivating", "3 failed")
    project.answer("*ExecMainStatus*", "0 2")
    assert launch(project, "local", "start").returncode == 2
    assert [" ".join(call[:2]) for call in project.calls()] == [
        "systemctl is-active",
        *["systemctl is-active", "sleep 30"] * 2,
        "systemctl is-active",
        "systemctl show",
    ]


def test_start_resets_a_failed_service(project: Project) -> None:
    project.answer("systemctl is-active*", "3 failed", "3 inactive")
    assert launch(project, "local", "start").returncode == 0
    assert [call[:3] for call in project.calls()][1:3] == [
        ["sudo", "systemctl", "reset-failed"],
        ["sudo", "systemd-run", "--quiet"],
    ]


@pytest.mark.parametrize(("script", "flags"), [("tpu_vm", []), ("gce", ["--coordinator=bert-0:8476"])])
def test_hosts_get_flags_and_variables_unchanged(script: str, flags: list[str], project: Project) -> None:
    """Runs the command line that a host gets, as ssh would: without the variables of the launch script."""
    (project.root.parent / "symbert_jax").symlink_to(project.root)  # the folder of the code on a host
    for verb, word in (("install", "jax[tpu]"), ("run", FLAG)):
        launch(project, script, verb)
        command_line = project.calls()[-1][-1].removeprefix("--command=")
        project.run("bash", "-c", f"cd .. && {command_line}", CONFIG="", WORKDIR="", DATA="")
        assert any(word in call for call in project.calls())
    (service,) = (call for call in project.calls() if call[0] == "sudo")
    train = shlex.split(TRAIN) + flags
    assert service[service.index("-m") :][: len(train)] == train


@pytest.mark.parametrize("port", ["", "9000"])
@pytest.mark.parametrize(("script", "prefix"), [("tpu_vm", "--setenv=JAX_COORDINATOR_PORT="), ("gce", "bert-0:")])
def test_hosts_use_an_open_coordinator_port(script: str, prefix: str, port: str, project: Project) -> None:
    (project.root.parent / "symbert_jax").symlink_to(project.root)
    launch(project, script, "run", JAX_COORDINATOR_PORT=port)
    project.run("bash", "-c", f"cd .. && {project.calls()[-1][-1].removeprefix('--command=')}")
    (service,) = (call for call in project.calls() if call[0] == "sudo")
    assert any(word.endswith(f"{prefix}{port or 8476}") for word in service)


@pytest.mark.parametrize(("status", "requeued"), [("143", True), ("0", False), ("2", False), ("1", False)])
def test_stopped_slurm_job_is_queued_again(status: str, requeued: bool, project: Project) -> None:
    """`srun` ends with the exit code of restart.sh, which is 143 after SIGTERM."""
    launch(project, "slurm", "run")
    script = project.calls()[-1][-1]
    project.answer("srun*", status)
    assert project.run("bash", "-c", script, SLURM_JOB_ID="17").returncode == int(status)
    srun, *more = project.calls()
    assert srun == shlex.split(
        f"srun --cpus-per-task=8 --kill-on-bad-exit=0 launch/restart.sh .venv/bin/python {TRAIN} {QUOTED}"
    )
    assert more == ([["scontrol", "requeue", "17"]] if requeued else [])


def test_jobset_requests_the_slice_and_runs_the_command(project: Project) -> None:
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
    assert pod["hostNetwork"]  # so buckets are accessed by the node pool's service account, as docs/pods.md says
    (train,), (data,) = pod["containers"], pod["initContainers"]
    assert train["image"] == "registry/image" and train["resources"] == {"limits": {"google.com/tpu": 4}}
    assert train["command"] == ["launch/restart.sh", "python", *shlex.split(TRAIN), FLAG]
    assert data["command"] == ["gcloud", "storage", "rsync", "gs://b/corpus", "data/corpus", "--recursive"]
    assert data["volumeMounts"] == train["volumeMounts"] == [{"name": "data", "mountPath": "/symbert_jax/data/corpus"}]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": train["name"], "operator": "In", "values": [2]}
    assert jobset["spec"]["failurePolicy"]["rules"][0]["action"] == "FailJobSet"


@pytest.mark.parametrize("status", [0, 2, 1])
def test_pod_of_xpk_runs_the_command_once_and_returns_its_status(status: int, project: Project) -> None:
    launch(project, "xpk", "run")
    flags = dict(word.split("=", 1) for word in project.calls()[0] if word.startswith("--"))
    (project.fakes / "python").symlink_to(project.fakes / "xpk")  # one more link to `fake`
    project.answer("python*", str(status))
    name, value = flags["--env"].split("=")
    pod = project.run("bash", "-c", f"({flags['--command']}) & wait $!", **{name: value})  # as xpk runs it
    assert pod.returncode == status
    assert project.calls() == [["python", *shlex.split(TRAIN.replace("data/corpus", "gs://b/corpus")), FLAG]]
