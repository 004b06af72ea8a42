from bench.estimate import Case
from bench.growth import BASE, SWEEPS, TOKENS, table
from bench.tpu_estimate import differences

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


def test_a_case_is_named_by_what_is_not_its_default():
    assert Case("base", "v5e:4x4", "standard").name == "base v5e:4x4 standard"
    assert Case("base", "v5e:4x4", "standard", rows=4, layers=2).name == "base v5e:4x4 standard rows=4 layers=2"


def test_a_change_of_over_a_percent_is_told_and_a_smaller_one_is_not():
    assert not differences(OLD, OLD | {"cycles": 1009})
    assert differences(OLD, OLD | {"cycles": 1011}) == [("cycles", 1000, 1011)]


def test_a_region_is_told_when_it_moves_by_a_percent_of_the_whole_or_of_itself_if_that_is_more():
    assert not differences(OLD, OLD | {"regions": {"attention": 900, "norm": 5.05}})
    assert differences(OLD, OLD | {"regions": {"attention": 930, "norm": 5}}) == [("regions attention", 900, 930)]


def test_a_new_kind_of_work_without_estimate_is_told():
    found = differences(OLD, OLD | {"unestimated": {"gather": 2, "sort": 1}})
    assert found == [("unestimated sort", 0, 1)]


def test_the_sweep_over_lengths_keeps_the_tokens_of_a_chip():
    assert all(case.length * case.rows == TOKENS and case.length == length for length, case in SWEEPS["length"])


def test_growth_tells_the_slope_between_rows_and_what_bounds_each():
    """Twice the rows take four times the cycles: a slope of 2; next to no bytes and no network bound nothing."""
    cost = {"bytes": 1.0, "model_flops": 1e9, "network_seconds": 0.0, "regions": {"splash": 0}}
    found = {case: cost | {"cycles": 10**6 * rows**2} for rows, case in SWEEPS["rows a chip"]}
    lines = table(found, ["rows a chip"], [BASE.attention]).splitlines()
    assert lines[2:4] == ["| 1 | 0.67 |  | compute | 0% |", "| 2 | 2.67 | 2.00 | compute | 0% |"]
