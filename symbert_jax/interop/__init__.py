"""Models in and out of this package: folders of Hugging Face's BERT and of the paper's code (`plpi/bert`).

Reading order: `architecture` and `tensors` convert the config and the weights; `folder` reads and writes all files of a
model; `fold` makes symmetric and pairwise models standard ones, and `card` describes them, for `export`; `warm_start`
makes a standard model symmetric or pairwise, for `import_`.
"""
