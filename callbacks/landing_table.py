"""The second table of an alignment's report: whether tokens land among those of video."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from vlynx_pl.analysis.landing import percent
from vlynx_pl.analysis.layer_spread import PARTS


def landing_table(figures: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table of what :func:`vlynx_pl.analysis.landing.landing` has found."""
    parts = " / ".join(PARTS)
    table = Table(title=f"Where the tokens land, and the variance of {parts}")
    for column in ("", "RGB video", "before", "after"):
        table.add_column(column, justify="left" if column == "" else "right")

    def row(name: str, figure: Callable[[Mapping[str, Any]], str]) -> None:
        table.add_row(name, *(figure(figures[when]) for when in ("video", "before", "after")))

    def variance(group: Tensor) -> Callable[[Mapping[str, Any]], str]:
        def left(one: Mapping[str, Any]) -> str:
            each = (torch.tensor(of)[group].mean() for of in one["variance_per_layer"].values())
            return " / ".join(f"{100 * mean:.0f}" for mean in each) + " %"

        return left

    def commonest(one: Mapping[str, Any]) -> str:
        name, share = next(iter(one["names"].items()))
        return f"{escape(name)} {share:.1%}"

    row("told apart from video", lambda one: percent(one["told_apart"]))
    row("commonest name", commonest)
    row("entropy of names", lambda one: f"{one['name_entropy']:.2f}")
    table.add_section()
    for layers, group in layer_groups(len(figures["video"]["variance_per_layer"][PARTS[0]])):
        row(f"variance, {layers}", variance(group))
    return table


def layer_groups(count: int) -> list[tuple[str, Tensor]]:
    """Divide layers into at most three groups, each with its name and the layers' indices."""
    groups = torch.arange(count).tensor_split(min(3, count))
    return [(_range(int(group[0]) + 1, int(group[-1]) + 1), group) for group in groups]


def _range(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first}-{last}"
