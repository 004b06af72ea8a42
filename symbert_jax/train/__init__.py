"""Pretraining: one update, the events between updates, their order, and what a run checks before it starts.

Reading order: `loop`, the order of events; `events`, what each of them reads and writes; `step`, the objective and the
update; `optimizer` and `state`, on which it works; `validate` and `window`, the objective without an update and the
sums of several batches; `trace`, a profile of a few steps; `start`, the state that a run starts from; `doctor`, all
checks before the first step.
"""
