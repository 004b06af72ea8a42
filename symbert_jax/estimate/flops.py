"""Counts the FLOPs of an HLO instruction of a TPU program."""

import re

from symbert_jax.estimate.hlo import Computation, Instruction, Module, dimensions


def instruction_flops(module: Module, computation: Computation, instruction: Instruction) -> float:
    """Returns the FLOPs of the matrix products in an instruction; for a custom call, the FLOPs that it states."""
    match instruction.op:
        case "convolution":  # the TPU compiler makes every matrix product a convolution
            return _convolution_flops(computation, instruction)
        case "fusion":
            fused = module.fused(instruction)
            return sum(instruction_flops(module, fused, part) for part in fused.values())
        case "custom-call":
            stated = re.search(r'"cost_estimate":\{"flops":"(\d+)"', instruction.text)
            return float(stated[1]) if stated else 0.0
    return 0.0


def _convolution_flops(computation: Computation, instruction: Instruction) -> float:
    """Returns the FLOPs of a convolution: 2 per multiply-add, without those on padding or on the holes of a dilation.

    The TPU compiler turns a batch dimension into a spatial dimension, in which each window holds one element that is
    not a hole.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
    assert labels, instruction.text
    shapes = [*(computation[name].shape for name in instruction.operands[:2]), instruction.shape]
    left, right, out = (
        dict(zip(names, dimensions(shape), strict=True)) for names, shape in zip(labels.groups(), shapes, strict=True)
    )
    # window={size=5x1 pad=2_2x0_0}: one value per spatial dimension, "low_high" for padding
    window = re.search(r"window=\{([^}]*)\}", instruction.text)
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    pairs = 1  # pairs of an output element and an input element that it depends on, over all spatial dimensions
    for axis in range(len(left) - 2):
        field = {name: value.split("x")[axis] for name, value in fields.items()}
        padding = int(field.get("pad", "0_0").split("_")[0])
        stride, left_dilation = int(field.get("stride", 1)), int(field.get("lhs_dilate", 1))
        right_dilation, window_size = int(field.get("rhs_dilate", 1)), int(field.get("size", 1))
        last_index = (left[str(axis)] - 1) * left_dilation
        indices = (o * stride + w * right_dilation - padding for o in range(out[str(axis)]) for w in range(window_size))
        pairs *= sum(0 <= index <= last_index and index % left_dilation == 0 for index in indices)
    batch_groups = re.search(r"batch_group_count=(\d+)", instruction.text)
    return 2.0 * left["b"] // int(batch_groups[1] if batch_groups else 1) * out["f"] * right["i"] * pairs
