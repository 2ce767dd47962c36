"""Scores of answers: the mathematics as pure functions, and one metric that holds the answers."""

from vlynx_pl.metrics.answered import Answered
from vlynx_pl.metrics.protocols import Protocol
from vlynx_pl.metrics.scores import Scores, failures, headline, table, told

__all__ = ["Answered", "Protocol", "Scores", "failures", "headline", "table", "told"]
