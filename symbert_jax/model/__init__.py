"""BERT as Flax NNX modules; `bert` and `classifier` offer it to other packages as functions of nested dicts of arrays.

Reading order: `parameters` and `layers`; `attention`, with all its variants, and the `kernels` that compute it, among
them `triton`; `encoder`; `bert` and `classifier`, which add a head. Beside them, `tree` turns modules into nested dicts
and back, `documents` finds the documents of a packed row, `flops` counts matrix products, and `tpu_layouts` computes a
few products and sums in forms that are faster on a TPU; `diagnostics` describes the attention of a trained model.
"""
