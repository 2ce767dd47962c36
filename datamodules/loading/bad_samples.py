"""Bad samples are listed once each, and too many of them stop a run."""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from datamodules.loading.inspection import Finding
from datamodules.loading.recordings import stem
from datamodules.loading.settings import LoadingSettings
from datamodules.samples import BadSample
from datamodules.splits import hold_out

_MOST_NAMED = 20  # bad files in one message


def hold_out_anew(findings: Sequence[Finding]) -> tuple[list[Finding], list[str]]:
    """If everything that was held out of a folder is bad, hold out the last usable recordings.

    Returns:
        The findings, and what was moved from training, with the reason.
    """
    train = [f for f in findings if f.part == "train" and f.usable]
    if len(train) < 2 or any(f.part == "val" and f.usable for f in findings):
        return [*findings], []
    moved = {stem(f.name) for f in hold_out(train)[1]}
    reason = "is held out, since everything that was held out is bad"
    return [
        replace(f, part="val") if f.part == "train" and stem(f.name) in moved else f
        for f in findings
        if f.part != "reference" or stem(f.name) not in moved
    ], [f"{f.name}: {reason}" for f in train if stem(f.name) in moved]


def once_each(findings: Sequence[Finding]) -> dict[str, BadSample]:
    """Message → bad sample."""
    return {str(bad): bad for finding in findings for bad in finding.bad}


def refuse_too_many(findings: Sequence[Finding], settings: LoadingSettings) -> None:
    """Raise BadSample if more than the accepted share of recordings is bad."""
    troubled = {finding.name for finding in findings if finding.bad}
    every = {finding.name for finding in findings}
    share, skip = len(troubled) / max(len(every), 1), settings.on_bad_sample == "skip"
    if share <= (settings.max_bad_share if skip else 0):
        return
    bad = once_each(findings)
    named = [f"\n  {one.path}: {one.reason}" for one in bad.values()][:_MOST_NAMED]
    rest = len(bad) - len(named)
    named += [f"\n  and {rest} more, which vlynx check --csv FILE lists"] * (rest > 0)
    lost = {f.part for f in findings} - {f.part for f in findings if f.usable}
    options = f"--data.on_bad_sample=skip --data.max_bad_share={ceil(100 * share) / 100:g}"
    remedy = (
        f"Repair them or add others; without them no {min(lost)} clip is left"
        if lost
        else f"To continue without them, add {options} (with make: ARGS='{options}')"
    )
    raise BadSample(
        settings.root,
        f"has {len(troubled)} bad recordings of {len(every)}"
        + f", more than max_bad_share={settings.max_bad_share:g}" * skip,
        "".join([f"{remedy}. The bad ones:", *named]),
    )
