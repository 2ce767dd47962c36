"""Scores of answers: pure functions, and a metric that gathers the answers."""

from vlynx_pl.metrics.answered import Answered
from vlynx_pl.metrics.intervals import differences, intervals
from vlynx_pl.metrics.protocols import Protocol
from vlynx_pl.metrics.scores import (
    Scores,
    comparison,
    describe_failures,
    failures,
    headline,
    table,
)

__all__ = [
    "Answered",
    "Protocol",
    "Scores",
    "comparison",
    "describe_failures",
    "differences",
    "failures",
    "headline",
    "intervals",
    "table",
]
