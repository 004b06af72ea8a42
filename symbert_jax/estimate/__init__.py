"""Estimates of memory, FLOPs and step time on a TPU slice that you don't have, from the TPU compiler.

The compiler runs on any Linux machine. It gets the real training step with shapes instead of arrays, and the topology
of the slice; nothing is executed, so no number here is a measurement.

Read the modules in this order: `slices`, topologies by name; `programs`, compiled steps and their time; `hlo`, a parser
of compiled programs; `cost`, the totals of a program, from `flops`, `traffic` and `collectives` of its instructions;
`kernel_cycles`, the cycles of attention's Pallas kernels, from their `schedules`; `summary`, the numbers for a config;
`batch_search`, the search for a batch size; `report`, the command `compile`.
"""
