"""The report of one or more runs: a table, plots of their curves, what differs between their configs, and their
predictions for [MASK]s in texts.

Reading order: `runs`, the curves of a run; `reference`, validation losses of the paper or of a file to compare with;
`table`, the final losses and speeds; `differences` of configs; `guesses` for [MASK]s; `plots`; `attention`, its
statistics; `page`, report.html; `command`, the command `compare`.
"""

from symbert_jax.compare.command import compare

__all__ = ["compare"]
