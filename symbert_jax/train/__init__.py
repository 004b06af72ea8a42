"""Pretraining: the update, the events between updates, and what a run checks before it starts.

Reading order: `loop`, the order of events; `events`, what each event reads and writes; `step`, the objective and the
update; `optimizer` and `state`, which `step` uses; `muon` and `per_layer`, parts of optimizers; `validate`, the
objective without an update; `window`, sums over several batches; `phases`, the phases of a run with their batches and
steps; `trace`, a profile of a few steps; `start`, the state that a run starts from, with `phase_changes`; `doctor`, all
checks before the first step; `average`, the mean of checkpoints.
"""
