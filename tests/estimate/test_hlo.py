"""The grammar of XLA's text, on the program that `test_cost` describes."""

import pytest

from symbert_jax.estimate.hlo import Module, arrays, dims, size
from tests.estimate.test_cost import SCAN


def test_every_turn_of_a_loop_runs_its_body() -> None:
    module = Module(SCAN)
    loops = [instruction for _, instruction, _ in module.runs() if instruction.op == "while"]
    assert [module.turns(loop) for loop in loops] == [3, 3]
    inside = {id(scope): times for scope, _, times in module.runs()}
    assert sorted(inside.values()) == [1, 3, 3]


def test_a_condition_that_compares_otherwise_tells_no_number_of_turns() -> None:
    module = Module(SCAN.replace("direction=LT", "direction=NE"))
    loops = [instruction for _, instruction, _ in module.runs() if instruction.op == "while"]
    assert [module.turns(loop) for loop in loops] == [None, None]


@pytest.mark.parametrize(
    ("shape", "all_bytes", "in_hbm"),
    [
        ("bf16[3,1024]{1,0:T(8,128)(2,1)}", 6144, 6144),
        ("f32[8]{0:T(128)S(1)}", 32, 0),
        ("pred[16]{0}", 16, 16),
        ("s4[16]{0}", 8, 8),
        ("f32[]", 4, 4),
        ("(f32[8]{0:S(1)}, u32[2]{0})", 40, 8),
    ],
)
def test_the_bytes_of_arrays_and_tuples(shape: str, all_bytes: int, in_hbm: int) -> None:
    assert (size(shape), size(shape, hbm=True)) == (all_bytes, in_hbm)


def test_a_tuple_has_arrays_and_an_array_has_dimensions() -> None:
    assert arrays("(f32[8,2]{1,0}, u32[])") == ["f32[8,2]{1,0}", "u32[]"]
    assert dims("f32[8,2]{1,0}") == [8, 2] and dims("u32[]") == []
