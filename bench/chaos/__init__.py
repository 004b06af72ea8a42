"""Kills of real runs at random moments."""
