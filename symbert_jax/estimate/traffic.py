"""HBM bytes of an instruction."""

import math

from symbert_jax.estimate.hlo import Computation, Instruction, Module, arrays, size


def _bytes(module: Module, scope: Computation, instruction: Instruction) -> float:
    """Bytes of HBM read and written; a fusion that takes a slice of an array reads the slice alone."""
    op = instruction.op
    if op in _FREE or op.endswith("-start") or _is_free_call(instruction):
        return 0.0
    if op.endswith("-done"):  # an asynchronous copy: what arrives was read and is written, if in HBM
        source = scope[scope[instruction.operands[0]].operands[0]]
        in_hbm = (size(source.shape, hbm=True) > 0) + (size(instruction.shape, hbm=True) > 0)
        return in_hbm * size(instruction.shape)
    if op == "fusion":
        inner = module.fused(instruction)
        read = sum(
            _read(module, inner, place, size(scope[name].shape, hbm=True))
            for place, name in enumerate(instruction.operands)
        )
        return read + _written(module, inner, instruction.shape)
    if op == "dynamic-update-slice":  # in place
        return 2 * size(scope[instruction.operands[1]].shape, hbm=True)
    if op in ("dynamic-slice", "slice", "gather"):
        return 2 * size(instruction.shape, hbm=True)
    touched = [instruction.shape, *(scope[name].shape for name in instruction.operands)]
    return sum(size(shape, hbm=True) for shape in touched)


def _read(module: Module, scope: Computation, place: int, whole: float) -> float:
    """Bytes that a fusion reads of its parameter `place`, which has `whole` bytes in HBM."""
    if not whole:
        return 0.0
    parameter = next(i for i in scope.values() if i.op == "parameter" and i.text.startswith(f"{place})"))
    return min(whole, _used(module, scope, parameter.name, whole))


def _used(module: Module, scope: Computation, name: str, whole: float) -> float:
    """The same of array `name` inside a fusion: the slices taken, or `whole`."""
    total = 0.0
    for user in scope.values():
        for place in (i for i, operand in enumerate(user.operands) if operand == name):
            match user.op:
                case "dynamic-slice" | "slice" | "gather" if place == 0:
                    total += size(user.shape)
                case "dynamic-update-slice" if place == 0:
                    pass  # what stays as it is, is not read
                case "bitcast":
                    total += _used(module, scope, user.name, whole)
                case "fusion":
                    total += _read(module, module.fused(user), place, whole)
                case _:
                    return whole
    return total


def _written(module: Module, scope: Computation, shape: str) -> float:
    """Bytes that a fusion of result `shape` writes to HBM: of an update in place, the update."""
    root = list(scope.values())[-1]
    shapes = arrays(shape)
    roots = [scope[name] for name in root.operands] if root.op == "tuple" else [root]
    if len(roots) != len(shapes):
        return size(shape, hbm=True)
    return sum(
        min(size(part, hbm=True), _updated(module, scope, root)) for part, root in zip(shapes, roots, strict=True)
    )


def _updated(module: Module, scope: Computation, root: Instruction) -> float:
    """Bytes of the update that `root` makes in place, infinite where it makes an array anew."""
    match root.op:
        case "dynamic-update-slice":
            return size(scope[root.operands[1]].shape)
        case "bitcast":
            return _updated(module, scope, scope[root.operands[0]])
        case "fusion":
            inner = module.fused(root)
            return _updated(module, inner, list(inner.values())[-1])
    return math.inf
