"""Counts the bytes of HBM that an HLO instruction reads and writes."""

import math

from symbert_jax.estimate.hlo import Computation, Instruction, Module, array_shapes, num_bytes

# Operations for which no bytes are counted.
_NO_TRAFFIC = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast"}  # they only name memory
_NO_TRAFFIC |= {"after-all", "partition-id", "replica-id", "opt-barrier"}  # they move no arrays
_NO_TRAFFIC |= {"while", "conditional", "call"}  # the instructions of their bodies count separately
_NO_TRAFFIC |= {"iota", "broadcast"}  # what they write is neglected


def hbm_bytes(module: Module, computation: Computation, instruction: Instruction) -> float:
    """Returns the bytes of HBM that an instruction reads and writes.

    Only the slice counts if an array is sliced, and only the update if an array is updated in place.
    """
    op = instruction.op
    if op in _NO_TRAFFIC or op.endswith("-start") or instruction.is_noop_call:
        return 0.0
    if op.endswith("-done"):  # every asynchronous operation counts here, as a copy of its result
        source = computation[computation[instruction.operands[0]].operands[0]]
        arrays_in_hbm = sum(num_bytes(shape, hbm_only=True) > 0 for shape in (source.shape, instruction.shape))
        return arrays_in_hbm * num_bytes(instruction.shape)
    if op == "fusion":
        fused = module.fused(instruction)
        read = sum(
            _parameter_bytes(module, fused, index, num_bytes(computation[name].shape, hbm_only=True))
            for index, name in enumerate(instruction.operands)
        )
        return read + _result_bytes(module, fused, instruction.shape)
    if op == "dynamic-update-slice":  # reads the update and writes it in place
        return 2 * num_bytes(computation[instruction.operands[1]].shape, hbm_only=True)
    if op in ("dynamic-slice", "slice", "gather"):
        return 2 * num_bytes(instruction.shape, hbm_only=True)
    shapes = [instruction.shape, *(computation[name].shape for name in instruction.operands)]
    return sum(num_bytes(shape, hbm_only=True) for shape in shapes)


def _parameter_bytes(module: Module, fused: Computation, index: int, size: float) -> float:
    """Returns the bytes that a fusion reads of parameter `index`, which has `size` bytes in HBM."""
    if not size:
        return 0.0
    # `%p = f32[4]{0} parameter(1)` has the text "1)"
    parameter = next(i for i in fused.values() if i.op == "parameter" and i.text.startswith(f"{index})"))
    return min(size, _used_bytes(module, fused, parameter.name, size))


def _used_bytes(module: Module, fused: Computation, name: str, size: float) -> float:
    """Returns the bytes of array `name` that a fusion uses: those of the slices that it takes, or all `size` bytes."""
    total = 0.0
    for user in fused.values():
        for index in (i for i, operand in enumerate(user.operands) if operand == name):
            match user.op:
                case "dynamic-slice" | "slice" | "gather" if index == 0:
                    total += num_bytes(user.shape)
                case "dynamic-update-slice" if index == 0:
                    pass  # an update in place does not read the array
                case "bitcast":
                    total += _used_bytes(module, fused, user.name, size)
                case "fusion":
                    total += _parameter_bytes(module, module.fused(user), index, size)
                case _:
                    return size
    return total


def _result_bytes(module: Module, fused: Computation, shape: str) -> float:
    """Returns the bytes of HBM that a fusion writes; for an update in place, only the bytes of the update."""
    root = list(fused.values())[-1]
    shapes = array_shapes(shape)
    roots = [fused[name] for name in root.operands] if root.op == "tuple" else [root]
    if len(roots) != len(shapes):
        return num_bytes(shape, hbm_only=True)
    return sum(
        min(num_bytes(part, hbm_only=True), _update_bytes(module, fused, result))
        for part, result in zip(shapes, roots, strict=True)
    )


def _update_bytes(module: Module, fused: Computation, root: Instruction) -> float:
    """Returns the bytes of the update that `root` makes in place; infinity if it makes a new array."""
    match root.op:
        case "dynamic-update-slice":
            return num_bytes(fused[root.operands[1]].shape)
        case "bitcast":
            return _update_bytes(module, fused, fused[root.operands[0]])
        case "fusion":
            inner = module.fused(root)
            return _update_bytes(module, inner, list(inner.values())[-1])
    return math.inf
