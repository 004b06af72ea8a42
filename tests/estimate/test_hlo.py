"""The parser of XLA programs, on the program that `test_cost` describes."""

import pytest

from symbert_jax.estimate.hlo import Module, array_shapes, dimensions, num_bytes
from tests.estimate.test_cost import SCAN


def test_loop_executes_its_body_once_per_iteration() -> None:
    module = Module(SCAN)
    loops = [instruction for _, instruction, _ in module.executed() if instruction.op == "while"]
    assert [module.trip_count(loop) for loop in loops] == [3, 3]
    counts = {id(computation): count for computation, _, count in module.executed()}
    assert sorted(counts.values()) == [1, 3, 3]


def test_trip_count_of_another_comparison_is_unknown() -> None:
    module = Module(SCAN.replace("direction=LT", "direction=NE"))
    loops = [instruction for _, instruction, _ in module.executed() if instruction.op == "while"]
    assert [module.trip_count(loop) for loop in loops] == [None, None]


@pytest.mark.parametrize(
    "branches", ["branch_computations={%small, %large}", "true_computation=%large, false_computation=%small"]
)
def test_branch_of_a_conditional_that_writes_the_most_is_executed(branches: str) -> None:
    """As for the two forms of a kernel, of which one runs: both would be twice the work."""
    module = Module(
        """
%small (a: f32[4]) -> f32[4] {
  ROOT %negate = f32[4]{0} negate(%a)
}
%large (b: f32[4]) -> f32[4] {
  %twice = f32[4]{0} add(%b, %b)
  ROOT %sum = f32[4]{0} add(%twice, %b)
}
ENTRY %main (p: f32[4]) -> f32[4] {
  %index = s32[] constant(0)
  ROOT %chosen = f32[4]{0} conditional(%index, %p, %p), BRANCHES, metadata={}
}""".replace("BRANCHES", branches)
    )
    assert [instruction.name for _, instruction, _ in module.executed()] == ["index", "chosen", "twice", "sum"]


@pytest.mark.parametrize(
    ("shape", "total", "in_hbm"),
    [
        ("bf16[3,1024]{1,0:T(8,128)(2,1)}", 6144, 6144),
        ("f32[8]{0:T(128)S(1)}", 32, 0),
        ("pred[16]{0}", 16, 16),
        ("s4[16]{0}", 8, 8),
        ("f32[]", 4, 4),
        ("(f32[8]{0:S(1)}, u32[2]{0})", 40, 8),
    ],
)
def test_num_bytes_counts_arrays_and_tuples(shape: str, total: int, in_hbm: int) -> None:
    assert (num_bytes(shape), num_bytes(shape, hbm_only=True)) == (total, in_hbm)


def test_shapes_of_tuples_and_arrays_are_parsed() -> None:
    assert array_shapes("(f32[8,2]{1,0}, u32[])") == ["f32[8,2]{1,0}", "u32[]"]
    assert dimensions("f32[8,2]{1,0}") == [8, 2] and dimensions("u32[]") == []
