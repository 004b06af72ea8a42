"""BERT as Flax NNX modules; `bert` and `classifier` offer it to other packages as functions of nested dicts of arrays.

Reading order: `parameters`, `random_bits` and `layers`; `positions` (rotary) and `windows` (local layers); `attention`,
with all its variants, and the `kernels` that compute it, of which `short` (TPU) and `triton` (GPU) are Pallas programs
of this package; `mlp`; `scan`, the loop over layers; `encoder`; `bert` and `classifier`, which add a head. Beside them,
`tree` turns modules into nested dicts and back, `documents` finds the documents of a packed row, `flops` counts matrix
products, and `tpu_layouts` and `gpu_forms` compute a few products, sums and look-ups in forms that are faster on a TPU
and on a GPU; `diagnostics` describes the attention of a model.
"""
