"""`watch`: slices that are created, preempted and created again."""

import pytest

from tests.launch.conftest import Project, launch

SCRIPTS = ("tpu_vm", "gce")  # those that have the verb
CALLS_PER_STEP = {"tpu_vm": 1, "gce": 4}  # of install and of start; gce.sh calls each of its four hosts


@pytest.mark.parametrize("script", SCRIPTS)
def test_watch_creates_a_preempted_slice_again_and_continues(script: str, project: Project) -> None:
    """The preemption stops the first run (143); the second one finishes."""
    preempted = {"tpu_vm": "0 SUSPENDED", "gce": "0 RUNNING\\nTERMINATED\\nSTOPPING"}[script]
    active, waiting = {
        "tpu_vm": ("0 ACTIVE", "0 WAITING_FOR_RESOURCES"),
        "gce": ("0 RUNNING\\nRUNNING", "0 PENDING\\nPENDING"),
    }[script]
    pattern = {"tpu_vm": "*value(state.state)", "gce": "*value(instanceStatus)"}[script]
    project.answer(pattern, active, active, preempted, waiting, active)
    project.answer("*local.sh start*", *["143"] * CALLS_PER_STEP[script], "0")
    assert launch(project, script, "watch").returncode == 0
    install_and_start = {
        "tpu_vm": ["archive", "scp", "install", "start"],
        "gce": ["list-instances", "archive", *["scp"] * 4, *["install"] * 4, "list-instances", *["start"] * 4],
    }[script]
    query = {"tpu_vm": "describe", "gce": "list-instances"}[script]
    parts = {"tpu_vm": 1, "gce": 3}[script]  # resources to delete and to create
    assert project.steps() == [
        *[query, *install_and_start, "sleep", query, "sleep", query],  # a preempted slice is ACTIVE for a while
        *["delete"] * parts,
        *["create"] * parts,
        *["sleep", query, "sleep", query, *install_and_start],
    ]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(("status", "polls"), [(2, 2), (0, 1), (1, 5), (143, 5)])
def test_watch_returns_the_status_of_a_run_on_a_healthy_slice(
    status: int, polls: int, script: str, project: Project
) -> None:
    """polls: queries of the state before and after the run; the slice stays ACTIVE, so `watch` returns."""
    project.answer("*local.sh start*", str(status))
    assert launch(project, script, "watch").returncode == status
    steps = project.steps()
    assert steps.count("start") == CALLS_PER_STEP[script] and "delete" not in steps and "create" not in steps
    # queries of the state: value(state.state) or value(instanceStatus)
    assert sum("ate)" in call[-1] or "Status)" in call[-1] for call in project.calls()) == polls


def test_watch_continues_after_a_lost_connection(project: Project) -> None:
    project.answer("*local.sh start*", "255", "0")
    project.answer("*value(state.state)", "0 ACTIVE", "1 ERROR: no route to host", "0 ACTIVE")
    result = launch(project, "tpu_vm", "watch")
    assert result.returncode == 0 and "no route to host" in result.stderr
    install_and_start = ["archive", "scp", "install", "start"]
    assert project.steps() == [
        "describe",
        *install_and_start,
        "sleep",
        "describe",
        "sleep",
        "describe",
        *install_and_start,
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_watch_repeats_a_failed_install_of_any_status(script: str, project: Project) -> None:
    calls = CALLS_PER_STEP[script]
    project.answer("*local.sh install*", *["2"] * 2 * calls, "0")
    result = launch(project, script, "watch")
    assert result.returncode == 0 and result.stderr.count("watch: install failed; continuing\n") == 2
    steps = project.steps()
    assert steps.count("install") == 3 * calls and steps.count("start") == calls and steps.count("sleep") == 2


def test_watch_gives_up_after_ten_failed_installs(project: Project) -> None:
    project.answer("*tpu-vm scp*", "1")
    result = launch(project, "tpu_vm", "watch")
    assert result.returncode == 1 and result.stderr.endswith("error: install failed 10 times in a row\n")
    assert project.steps().count("scp") == 10 and "start" not in project.steps()


def test_watch_counts_failed_installs_per_slice(project: Project) -> None:
    """Nine installs fail on the first slice and one on the second; ten on one slice would end `watch`."""
    project.answer("*value(state.state)", *["0 ACTIVE"] * 9, "0 SUSPENDED", "0 ACTIVE")
    project.answer("*local.sh install*", *["255"] * 10, "0")
    assert launch(project, "tpu_vm", "watch").returncode == 0
    assert project.steps().count("install") == 11


def test_watch_counts_failed_installs_in_a_row(project: Project) -> None:
    """Nine installs fail before the first run, and nine before the second, which a lost connection (255) requires."""
    project.answer("*local.sh install*", *["1"] * 9, "0", *["1"] * 9, "0")
    project.answer("*local.sh start*", "255", "0")
    assert launch(project, "tpu_vm", "watch").returncode == 0
    assert project.steps().count("install") == 20


def test_watch_creates_a_slice_that_does_not_exist(project: Project) -> None:
    project.answer("*value(state.state)", "1 ERROR: NOT_FOUND: no such thing", "0 ACTIVE")
    assert launch(project, "tpu_vm", "watch").returncode == 0
    assert project.steps()[:4] == ["describe", "create", "sleep", "describe"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_watch_continues_after_a_failed_delete_or_create(script: str, project: Project) -> None:
    pattern = {"tpu_vm": "*value(state.state)", "gce": "*value(instanceStatus)"}[script]
    preempted, active = {"tpu_vm": ("0 FAILED", "0 ACTIVE"), "gce": ("0 TERMINATED", "0 RUNNING\\nRUNNING")}[script]
    project.answer(pattern, active, preempted, "1 ERROR: NOT_FOUND: no such thing", active)
    project.answer("*local.sh start*", *["143"] * CALLS_PER_STEP[script], "0")
    project.answer("* delete *", "1 ERROR: not now")
    project.answer("* create *", *["1 ERROR: no capacity"] * (3 if script == "gce" else 1), "0")
    result = launch(project, script, "watch")
    assert result.returncode == 0
    assert "watch: delete failed; continuing" in result.stderr and "watch: request failed; continuing" in result.stderr
    assert project.steps().count("start") == 2 * CALLS_PER_STEP[script]


def test_create_gives_up_on_a_failed_slice(project: Project) -> None:
    project.answer("*value(state.state)", "0 PROVISIONING", "0 FAILED")
    result = launch(project, "tpu_vm", "create")
    assert result.returncode == 1 and "bert is FAILED" in result.stderr
    assert project.steps() == ["create", "describe", "sleep", "describe"]
