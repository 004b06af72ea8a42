"""The cost of a program from its text.

`fixtures/scan_v5e.hlo` is a program that the TPU compiler made for a v5e:2x2, which has 4 chips: the gradient by w of
sum(scan(x -> tanh(x w_i))), with w[3, 1024, 1024] and x[4096, 1024] in bf16, whose rows are split over the chips. Of
XLA's metadata, the file keeps only the estimated cycles.
"""

from pathlib import Path

import pytest

from symbert_jax.estimate.cost import Collective, Unestimated, program_cost

SCAN = (Path(__file__).parents[1] / "fixtures" / "scan_v5e.hlo").read_text()
WEIGHT_BYTES = 1024 * 1024 * 2  # of one layer


def program(*instructions: str, computations: str = "") -> str:
    """Returns the text of a program with the instructions of its entry and with other computations."""
    return "\n".join(
        [computations, "ENTRY %main (p: f32[4]) -> f32[4] {", *(f"  {line}" for line in instructions), "}"]
    )


def test_body_of_a_scan_counts_once_per_iteration() -> None:
    """The cycles are those that SCAN states: in the bodies of its two loops, and outside the loops."""
    forward, backward = 10856 + 15377 + 21340, 10856 + 21340 + 300 + 15377 + 21340
    cost = program_cost(SCAN, num_devices=4)
    assert cost.cycles == 3 * (forward + backward) + 4 * 69232 + 10856
    assert cost.flops == 3 * 3 * 2 * 1024**3  # a product forward and two backward, for each of 3 weights
    assert cost.unknown_loops == 0


def test_hbm_traffic_leaves_out_arrays_in_vmem() -> None:
    weights, local_rows_of_x, gradients = 3, 1, 3  # in units of one layer's weights
    total = (weights + local_rows_of_x + gradients) * WEIGHT_BYTES
    assert program_cost(SCAN, num_devices=4).bytes == pytest.approx(total, rel=1e-4)


def test_collective_in_a_scan_counts_once_per_iteration() -> None:
    (collective,) = program_cost(SCAN, num_devices=4).collectives
    assert collective == Collective("all-reduce", group=4, count=3, bytes=3.0 * WEIGHT_BYTES)


def test_trip_count_is_stated_or_read_from_the_condition() -> None:
    """SCAN states no trip count: it is the constant 3 in a condition, if the comparison there is "less than"."""
    stated = SCAN.replace("condition=", 'backend_config={"known_trip_count":{"n":"5"}}, condition=')
    assert program_cost(stated, num_devices=4).flops == pytest.approx(5 / 3 * program_cost(SCAN, num_devices=4).flops)
    unknown = program_cost(SCAN.replace("direction=LT", "direction=NE"), num_devices=4)
    assert unknown.unknown_loops == 2
    assert unknown.flops == pytest.approx(program_cost(SCAN, num_devices=4).flops / 3)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1,2},{3,4,5}}", 3),
        ("[2,8]<=[8,2]T(1,0)", 8),
        ("mesh['axis_0'=8,'axis_1'=2] {'axis_0'}", 8),
        ("mesh['axis_0'=2,'axis_1'=8], device_ids=([16]) {'axis_0','axis_1'}", 16),
        ("mesh['axis_0'=16] {'axis_0':(2)4}", 4),
        ("{}", 32),
    ],
)
def test_group_size_of_a_collective_is_parsed(groups: str, size: int) -> None:
    line = f"ROOT %sum = f32[4]{{0}} all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%add"
    text = program("%p = f32[4]{0} parameter(0)", line)
    (collective,) = program_cost(text, num_devices=32).collectives
    assert collective == Collective("all-reduce", group=size, count=1, bytes=16.0)


def test_collective_split_over_fusions_counts_once() -> None:
    """%start and %done belong to one all-gather, channel 7. The all-reduce of %part is followed by a slice."""
    piece = """%piece{0} (a: f32[1]) -> f32[4] {{
  %a = f32[1]{{0}} parameter(0)
  ROOT %gather{0} = f32[4]{{0}} all-gather(%a), channel_id=7, replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}
}}

"""
    scatter = """%all-reduce-scatter (b: f32[4]) -> f32[1] {
  %b = f32[4]{0} parameter(0)
  %sum = f32[4]{0} all-reduce(%b), channel_id=8, replica_groups={{0,1,2,3}}, to_apply=%add
  %i = s32[] constant(0)
  ROOT %slice = f32[1]{0} dynamic-slice(%sum, %i), dynamic_slice_sizes={1}
}
"""
    text = program(
        "%p = f32[1]{0} parameter(0)",
        "%start = f32[4]{0} fusion(%p), kind=kCustom, calls=%piece1",
        "%done = f32[4]{0} fusion(%p), kind=kCustom, calls=%piece2",
        "%part = f32[1]{0} fusion(%done), kind=kCustom, calls=%all-reduce-scatter",
        "ROOT %half = f32[2]{0} reduce-scatter(%done), channel_id=9, replica_groups={{0,1},{2,3}}, dimensions={0}",
        computations=piece.format(1) + piece.format(2) + scatter,
    )
    assert program_cost(text, num_devices=4).collectives == (
        Collective("all-gather", group=4, count=1, bytes=16.0),
        Collective("reduce-scatter", group=2, count=1, bytes=16.0),
        Collective("reduce-scatter", group=4, count=1, bytes=16.0),
    )
    assert not program_cost(text, num_devices=4).unestimated


def test_asynchronous_collective_counts_once() -> None:
    text = program(
        "%p = f32[4]{0} parameter(0)",
        "%s = (f32[4]{0}, f32[4]{0}, u32[]) collective-permute-start(%p), channel_id=1, source_target_pairs={{0,1}}",
        "ROOT %d = f32[4]{0} collective-permute-done(%s)",
    )
    (collective,) = program_cost(text, num_devices=2).collectives
    assert collective == Collective("collective-permute", group=2, count=1, bytes=16.0)


def test_cycles_count_in_the_innermost_named_region() -> None:
    def negate(name: str, operand: str, cycles: int, source: str) -> str:
        config = f'backend_config={{"window_config":{{"estimated_cycles":"{cycles}"}}}}'
        return f'%{name} = f32[4]{{0}} negate(%{operand}), metadata={{op_name="{source}"}}, {config}'

    text = program(
        "%p = f32[4]{0} parameter(0)",
        negate("a", "p", 5, "jit(step)/jvp(head)/norm/mul"),
        negate("b", "a", 7, "jit(step)/transpose(jvp(head))/dot_general"),
        negate("c", "b", 11, "jit(step)/normal"),
        "ROOT " + negate("d", "c", 13, "jit(step)/jvp()/while/body/norm/sub"),
    )
    cost = program_cost(text, num_devices=1, regions=["head", "norm"])
    assert cost.regions == {"head": 7, "norm": 18, "other": 11}
    assert cost.cycles == 36


def test_pallas_kernel_with_several_lines_of_config_is_counted() -> None:
    """The kernel reads and writes 4 numbers of 2 bytes. Its `bytes_accessed` is not used."""
    text = program(
        "%p = bf16[4]{0} parameter(0)",
        '%k = bf16[4]{0} custom-call(%p), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={',
        '"block": 128',
        "}}",
        '}}, backend_config={"custom_call_config":{"cost_estimate":{"flops":"640","bytes_accessed":"9"}}}',
        'ROOT %n = bf16[4]{0} negate(%k), backend_config={"window_config":{"estimated_cycles":"5"}}',
    ).replace("  }}", "}}")  # XLA does not indent these lines
    cost = program_cost(text, num_devices=1)
    assert cost.unestimated == (Unestimated("Pallas kernel", count=1, flops=640.0, bytes=16.0),)
    assert (cost.cycles, cost.flops) == (5, 640)


@pytest.mark.parametrize(
    ("left", "right", "out", "attributes", "flops"),
    [
        ("8,16", "16,4", "8,4", "dim_labels=bf_io->bf", 2 * 8 * 16 * 4),
        # the batch of 3 is a spatial axis whose windows hold one element each
        (
            "3,8,16",
            "3,16,4",
            "3,8,4",
            "window={size=3 stride=2 lhs_dilate=3}, dim_labels=0bf_0io->0bf",
            2 * 3 * 8 * 16 * 4,
        ),
        # 3 outputs x 5 elements of the window are 15 pairs, 6 of them with padding
        ("3,8,16", "5,16,4", "3,8,4", "window={size=5 pad=2_2}, dim_labels=0bf_0io->0bf", 2 * 9 * 8 * 16 * 4),
    ],
)
def test_flops_leave_out_padding_and_holes(left, right, out, attributes, flops) -> None:
    text = program(
        f"%a = bf16[{left}]{{0}} parameter(0)",
        f"%b = bf16[{right}]{{0}} parameter(1)",
        f"ROOT %c = bf16[{out}]{{0}} convolution(%a, %b), {attributes}",
    )
    assert program_cost(text, num_devices=1).flops == flops


def test_fusion_moves_only_its_slice_and_its_update() -> None:
    """The fusion reads and writes one row in HBM; the copy reads all rows. %v, %m and %d are in VMEM: S(1)."""
    inner = """%inner (a: f32[64,8], b: f32[64,8], i: s32[]) -> f32[64,8] {
  %a = f32[64,8]{1,0} parameter(0)
  %b = f32[64,8]{1,0} parameter(1)
  %i = s32[]{:S(6)} parameter(2)
  %row = f32[1,8]{1,0} dynamic-slice(%b, %i, %i), dynamic_slice_sizes={1,8}
  ROOT %new = f32[64,8]{1,0} dynamic-update-slice(%a, %row, %i, %i)
}
"""
    text = program(
        "%p = f32[64,8]{1,0} parameter(0)",
        "%q = f32[64,8]{1,0} parameter(1)",
        "%v = f32[64,8]{1,0:T(8,128)S(1)} parameter(2)",
        "%i = s32[]{:S(6)} parameter(3)",
        "%n = f32[64,8]{1,0} fusion(%p, %q, %i), kind=kLoop, calls=%inner",
        "%m = f32[64,8]{1,0:T(8,128)S(1)} add(%v, %v)",
        "%s = (f32[64,8]{1,0:T(8,128)S(1)}, f32[64,8]{1,0}, u32[]) copy-start(%n)",
        "ROOT %d = f32[64,8]{1,0:T(8,128)S(1)} copy-done(%s)",
        computations=inner,
    )
    assert program_cost(text, num_devices=1).bytes == 2 * 8 * 4 + 64 * 8 * 4
