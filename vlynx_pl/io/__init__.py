"""Errors, atomic files, progress and interruption: used by every other package."""
