"""FLOPs of an instruction."""

import re

from symbert_jax.estimate.hlo import Computation, Instruction, Module, dims


def _flops(module: Module, scope: Computation, instruction: Instruction) -> float:
    match instruction.op:
        case "convolution":  # every matrix product is one on a TPU
            return _convolution_flops(scope, instruction)
        case "fusion":
            inner = module.fused(instruction)
            return sum(_flops(module, inner, part) for part in inner.values())
        case "custom-call":
            stated = re.search(r'"cost_estimate":\{"flops":"(\d+)"', instruction.text)
            return float(stated[1]) if stated else 0.0
    return 0.0


def _convolution_flops(scope: Computation, instruction: Instruction) -> float:
    """2 a multiply-add, those that meet padding or the holes of a dilation left out.

    A TPU program writes a batch dimension as a spatial one whose window meets one element at a time.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
    assert labels, instruction.text
    shapes = [scope[instruction.operands[0]].shape, scope[instruction.operands[1]].shape, instruction.shape]
    left, right, out = (
        dict(zip(names, dims(shape), strict=True)) for names, shape in zip(labels.groups(), shapes, strict=True)
    )
    window = re.search(r"window=\{([^}]*)\}", instruction.text)
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    pairs = 1
    for axis in range(len(left) - 2):
        ours = {name: value.split("x")[axis] for name, value in fields.items()}
        pad = int(ours.get("pad", "0_0").split("_")[0])
        stride, holes = int(ours.get("stride", 1)), int(ours.get("lhs_dilate", 1))
        spread, extent = int(ours.get("rhs_dilate", 1)), int(ours.get("size", 1))
        end = (left[str(axis)] - 1) * holes
        max_predictions = (o * stride + w * spread - pad for o in range(out[str(axis)]) for w in range(extent))
        pairs *= sum(0 <= place <= end and place % holes == 0 for place in max_predictions)
    batches = re.search(r"batch_group_count=(\d+)", instruction.text)
    return 2.0 * left["b"] // int(batches[1] if batches else 1) * out["f"] * right["i"] * pairs
