"""Errors, atomic files, progress and interruption: what every other package may use."""
