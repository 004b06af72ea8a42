"""Names of cases, differences from committed estimates, and tables of growth."""

import json

from bench.estimate import Case
from bench.growth import BASE, SWEEPS, TOKENS, table
from bench.tpu_estimate import COMMITTED, differences

OLD = {
    "cycles": 1000,
    "bytes": 100.0,
    "flops": 50.0,
    "collective_bytes": 10.0,
    "collectives": 4,
    "memory": 7.0,
    "regions": {"attention": 900, "norm": 5},
    "unestimated": {"gather": 2},
}


def test_case_name_holds_what_differs_from_the_default():
    assert Case("base", "v5e:4x4", "standard").name == "base v5e:4x4 standard"
    assert Case("base", "v5e:4x4", "standard", rows=4, layers=2).name == "base v5e:4x4 standard rows=4 layers=2"
    assert Case("base", "v5e:4x4", "standard", kernel="splash").name == "base v5e:4x4 standard kernel=splash"


def test_differences_report_changes_above_one_percent():
    assert not differences(OLD, OLD | {"cycles": 1009})
    assert differences(OLD, OLD | {"cycles": 1011}) == [("cycles", 1000, 1011)]


def test_differences_of_small_regions_are_relative_to_all_cycles():
    """A region of less than 1% of all cycles, here `norm`, may change by 1% of that 1%."""
    assert not differences(OLD, OLD | {"regions": {"attention": 900, "norm": 5.09}})
    assert differences(OLD, OLD | {"regions": {"attention": 930, "norm": 5}}) == [("regions attention", 900, 930)]


def test_differences_report_new_kinds_of_unestimated_work():
    found = differences(OLD, OLD | {"unestimated": {"gather": 2, "sort": 1}})
    assert found == [("unestimated sort", 0, 1)]


def test_committed_numbers_can_be_compared() -> None:
    for cost in json.loads(COMMITTED.read_text()).values():
        assert not differences(cost, cost)


def test_sweep_over_lengths_keeps_the_tokens_per_chip():
    assert all(case.length * case.rows == TOKENS and case.length == length for length, case in SWEEPS["length"])


def test_table_shows_slopes_and_the_bounding_resource():
    """In these costs, twice the rows take four times the cycles, a slope of 2; bytes and collectives are negligible."""
    cost = {"bytes": 1.0, "model_flops": 1e9, "network_seconds": 0.0, "regions": {}}
    costs = {case: cost | {"cycles": 10**6 * rows**2} for rows, case in SWEEPS["rows per chip"]}
    lines = table(costs, {"rows per chip": SWEEPS["rows per chip"]}, attentions=[BASE.attention]).splitlines()
    assert lines[2:4] == ["| 1 | 0.67 |  | compute | 0% |", "| 2 | 2.67 | 2.00 | compute | 0% |"]
