"""Sphinx extensions for the pages that are generated from the package: its commands, its config and its docstrings."""
