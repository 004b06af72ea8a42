"""Slices that come, are preempted and come again."""

import pytest

from tests.launch.conftest import Project, launch

RUNS = {"tpu_vm": "tpu-vm ssh", "gce": "compute ssh"}


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


@pytest.mark.parametrize("script", RUNS)
def test_an_install_that_fails_is_tried_again_whatever_its_status(script: str, project: Project) -> None:
    hosts = {"tpu_vm": 1, "gce": 4}[script]
    project.answer("*local.sh install*", *["2"] * 2 * hosts, "0")
    result = launch(project, script, "watch")
    assert result.returncode == 0 and result.stderr.count("watch: install failed; going on\n") == 2
    steps = project.steps()
    assert steps.count("install") == 3 * hosts and steps.count("start") == hosts and steps.count("sleep") == 2


def test_watch_gives_up_on_an_install_that_never_succeeds(project: Project) -> None:
    project.answer("*tpu-vm scp*", "1")
    result = launch(project, "tpu_vm", "watch")
    assert result.returncode == 1 and result.stderr.endswith("error: install failed 10 times in a row\n")
    assert project.steps().count("scp") == 10 and "start" not in project.steps()


def test_installs_that_fail_are_counted_anew_on_another_slice(project: Project) -> None:
    project.answer("*value(state.state)", *["0 ACTIVE"] * 9, "0 SUSPENDED", "0 ACTIVE")
    project.answer("*local.sh install*", *["255"] * 10, "0")
    assert launch(project, "tpu_vm", "watch").returncode == 0
    assert project.steps().count("install") == 11


def test_installs_that_fail_are_counted_anew_after_one_that_did_not(project: Project) -> None:
    project.answer("*local.sh install*", *["1"] * 9, "0", *["1"] * 9, "0")
    project.answer("*local.sh start*", "255", "0")
    assert launch(project, "tpu_vm", "watch").returncode == 0
    assert project.steps().count("install") == 20


def test_watch_asks_for_a_slice_that_does_not_exist(project: Project) -> None:
    project.answer("*value(state.state)", "1 ERROR: NOT_FOUND: no such thing", "0 ACTIVE")
    assert launch(project, "tpu_vm", "watch").returncode == 0
    assert project.steps()[:4] == ["describe", "create", "sleep", "describe"]


@pytest.mark.parametrize("script", RUNS)
def test_watch_goes_on_where_a_slice_could_not_be_given_back_or_had(script: str, project: Project) -> None:
    query = {"tpu_vm": "*value(state.state)", "gce": "*value(instanceStatus)"}[script]
    gone, there = {"tpu_vm": ("0 FAILED", "0 ACTIVE"), "gce": ("0 TERMINATED", "0 RUNNING\\nRUNNING")}[script]
    project.answer(query, there, gone, "1 ERROR: NOT_FOUND: no such thing", there)
    project.answer("*local.sh start*", *["143"] * (4 if script == "gce" else 1), "0")
    project.answer("* delete *", "1 ERROR: not now")
    project.answer("* create *", *["1 ERROR: no capacity"] * (3 if script == "gce" else 1), "0")
    result = launch(project, script, "watch")
    assert result.returncode == 0
    assert "watch: delete failed; going on" in result.stderr and "watch: request failed; going on" in result.stderr
    assert project.steps().count("start") == 2 * {"tpu_vm": 1, "gce": 4}[script]


def test_create_gives_up_on_a_slice_that_failed(project: Project) -> None:
    project.answer("*value(state.state)", "0 PROVISIONING", "0 FAILED")
    result = launch(project, "tpu_vm", "create")
    assert result.returncode == 1 and "bert is FAILED" in result.stderr
    assert project.steps() == ["create", "describe", "sleep", "describe"]
