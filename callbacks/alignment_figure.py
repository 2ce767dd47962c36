"""The figure of an alignment: attention gap per layer, token means and variances."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vlynx_pl.guidance import InterfaceGuidance
from vlynx_pl.interface_gap import InterfaceGap
from vlynx_pl.io.files import atomic_file

_COLOURS = {"video": "0.6", "before": "tab:orange", "after": "tab:blue"}


def save_figure(gaps: dict[str, InterfaceGap], guidance: InterfaceGuidance, path: Path) -> None:
    """Draw three panels into a PNG: attention gaps, token means, token variances."""
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    attention, mean, variance = figure.subplots(1, 3)
    for when, gap in gaps.items():
        layers = range(1, len(gap.attention) + 1)
        attention.plot(layers, gap.attention.cpu(), "o-", color=_COLOURS[when], label=when)
    attention.set(xlabel="vision layer", ylabel="L1 gap to the video response")
    attention.set_title("Attention response")
    attention.set_ylim(bottom=0)
    attention.xaxis.set_major_locator(MaxNLocator(integer=True))
    attention.legend()
    panels = (
        (mean, "token_mean", "Token mean, one dot per channel"),
        (variance, "token_var", "Token variance, one dot per channel"),
    )
    for panel, name, title in panels:
        target = getattr(guidance, name).cpu()
        for when in ("before", "after"):
            values = getattr(gaps[when], name).cpu()
            panel.scatter(target, values, s=8, alpha=0.6, color=_COLOURS[when], label=when)
        low, high = target.min().item(), target.max().item()
        panel.plot([low, high], [low, high], color="0.3", lw=1, label="the video interface")
        panel.set(xlabel="RGB video", ylabel="modality", title=title)
        panel.legend()
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")
