"""What hosts, jobs and services are told, and what comes back from them."""

import shlex

import pytest
import yaml

from tests.launch.conftest import FLAG, QUOTED, TRAIN, Project, launch


def test_on_several_hosts_the_users_mistake_goes_before_their_other_statuses(project: Project) -> None:
    project.answer("*--process=1*", "2")
    project.answer("*local.sh start*", "1")
    assert launch(project, "gce", "run").returncode == 2


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


@pytest.mark.parametrize("port", ["", "9000"])
@pytest.mark.parametrize(("script", "told"), [("tpu_vm", "--setenv=JAX_COORDINATOR_PORT="), ("gce", "bert-0:")])
def test_hosts_meet_at_a_port_that_is_open(script: str, told: str, port: str, project: Project) -> None:
    (project.root.parent / "symbert_jax").symlink_to(project.root)
    launch(project, script, "run", JAX_COORDINATOR_PORT=port)
    project.run("bash", "-c", f"cd .. && {project.calls()[-1][-1].removeprefix('--command=')}")
    (service,) = (call for call in project.calls() if call[0] == "sudo")
    assert any(word.endswith(f"{told}{port or 8476}") for word in service)


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
    assert pod["hostNetwork"]  # so buckets see the node pool's service account, as docs/launch.md says
    (train,), (data,) = pod["containers"], pod["initContainers"]
    assert train["image"] == "registry/image" and train["resources"] == {"limits": {"google.com/tpu": 4}}
    assert train["command"] == ["launch/restart.sh", "python", *shlex.split(TRAIN), FLAG]
    assert data["command"] == ["gcloud", "storage", "rsync", "gs://b/corpus", "data/corpus", "--recursive"]
    assert data["volumeMounts"] == train["volumeMounts"] == [{"name": "data", "mountPath": "/symbert_jax/data/corpus"}]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": train["name"], "operator": "In", "values": [2]}
    assert jobset["spec"]["failurePolicy"]["rules"][0]["action"] == "FailJobSet"


@pytest.mark.parametrize("ended", [0, 2, 1])
def test_a_pod_of_xpk_runs_the_command_once_and_ends_as_it_did(ended: int, project: Project) -> None:
    launch(project, "xpk", "run")
    told = dict(word.split("=", 1) for word in project.calls()[0] if word.startswith("--"))
    (project.fakes / "python").symlink_to(project.fakes / "xpk")
    project.answer("python*", str(ended))
    knob, value = told["--env"].split("=")
    pod = project.run("bash", "-c", f"({told['--command']}) & wait $!", **{knob: value})  # as xpk has it
    assert pod.returncode == ended
    assert project.calls() == [["python", *shlex.split(TRAIN.replace("data/corpus", "gs://b/corpus")), FLAG]]
