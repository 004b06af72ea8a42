"""Kills of real runs."""

from bench.chaos.stages import main

main()
