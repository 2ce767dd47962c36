"""Scores of answers: pure functions, and a metric that gathers the answers."""

from vlynx_pl.metrics.answered import Answered
from vlynx_pl.metrics.protocols import Protocol
from vlynx_pl.metrics.scores import Scores, describe_failures, failures, headline, table

__all__ = ["Answered", "Protocol", "Scores", "describe_failures", "failures", "headline", "table"]
