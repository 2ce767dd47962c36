"""Scores of answers: the mathematics as pure functions, and one metric that holds the answers."""

from vlynx_pl.errors import UserError
from vlynx_pl.metrics.answered import Answered
from vlynx_pl.metrics.java import find_java
from vlynx_pl.metrics.protocols import PROTOCOLS
from vlynx_pl.metrics.scores import Scores, failures, headline, table, told
from vlynx_pl.metrics.submissions import submission

__all__ = [
    "Answered",
    "Scores",
    "failures",
    "headline",
    "scores_for",
    "submission",
    "table",
    "told",
]


def scores_for(benchmark: str, complete: bool = True) -> Scores:
    """The scores of a benchmark, by the name of its reader, such as ``ScanQA``.

    Args:
        benchmark: the name.
        complete: whether a figure that needs Java may not be missing.

    Raises:
        UserError: there is no such benchmark, or it needs Java, which doesn't run; said before
            there are answers rather than after.
    """
    if benchmark not in PROTOCOLS:
        raise UserError(
            f"there are no scores for {benchmark!r:.60}; there are for {', '.join(PROTOCOLS)}. "
            "Another benchmark says by scored_as whose rules score it: for InstructJSON, "
            "--data.benchmark.scored_as=ScanQA"
        )
    if complete and PROTOCOLS[benchmark].java:
        find_java()
    return Scores(PROTOCOLS[benchmark])
