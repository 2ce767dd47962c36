"""The study's tables: what each row runs, for every seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from experiments.paper.study import SENSES, Alignment, Tuning

Seeds = Sequence[int]
SINGLE: Final = [name for name, sense in SENSES.items() if not sense.parts]
_BLIND: Final = ("zero-shot", "lora-only")  # methods that read the video alone


@dataclass(frozen=True)
class Row:
    """A row of a table: the same run with several seeds."""

    sense: str
    label: str
    tunings: tuple[Tuning, ...]


def aligned(
    sense: str,
    seeds: Seeds,
    text: str,
    label: str = "full",
    *options: str,
    videos: int = 500,
    guided_by: str = "",
    share: float = 1.0,
) -> Row:
    """A row of tunings on aligned tokens; ``guided_by`` is the sense whose guidance is taken."""
    tunings = []
    for seed in seeds:
        guidance = Alignment(guided_by, seed) if guided_by else None
        alignment = Alignment(sense, seed, label, options, videos, guidance)
        tunings.append(Tuning(sense, seed, "aligned", (alignment,), share=share))
    return Row(sense, text, tuple(tunings))


def plain(sense: str, seeds: Seeds, text: str, method: str, share: float = 1.0) -> Row:
    """A row of tunings that align nothing."""
    seen = "3d" if sense == "3d-gray" and method in _BLIND else sense  # their video is the same
    return Row(sense, text, tuple(Tuning(seen, seed, method, share=share) for seed in seeds))


def senses(seeds: Seeds) -> list[Row]:
    """Tables 1 to 4: each sense against the baselines."""
    return [
        row
        for sense in SINGLE
        for row in (
            plain(sense, seeds[:1], "zero-shot", "zero-shot"),  # it has no seed
            plain(sense, seeds, "LoRA-only", "lora-only"),
            plain(sense, seeds, "PAVE", "pave"),
            plain(sense, seeds, "no alignment", "raw"),
            aligned(sense, seeds, "V-LynX"),
        )
    ]


_NO_ATTN, _NO_STAT = "--model.objective.attn_weight=0", "--model.objective.stat_weight=0"
ABLATED: Final = ("audio", "3d", "3d-gray")


def components(seeds: Seeds) -> list[Row]:
    """Table 5: what each part of the method is worth."""
    return [
        row
        for sense in ABLATED
        for row in (
            aligned(sense, seeds, "L_attn + L_stat"),
            aligned(sense, seeds, "without L_attn", "stat", _NO_ATTN),
            aligned(sense, seeds, "without L_stat", "attn", _NO_STAT),
            plain(sense, seeds, "no alignment", "raw"),
            plain(sense, seeds, "no interface adaptation, both tuned", "joint"),
        )
    ]


def recipe(name: str) -> tuple[str, ...]:
    """The options that take a recipe of ``experiments/align/recipes``."""
    return (f"--config=experiments/align/recipes/{name}.yaml",)


_LITTLE: Final = "--model.objective.stat_weight=0.01"  # β
_REMEDIES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "released losses, β 0": ("attn", (_NO_STAT,)),
    "released losses, β 0.01": ("β=0.01", (_LITTLE,)),
    "released losses, β 0.1": ("full", ()),
    "released losses, β 0, 20 steps": ("attn-early", (_NO_STAT, "--trainer.max_steps=20")),
    "stop-gradient on the reference": (
        "detached",
        (_LITTLE, "--model.objective.detach_reference=true"),
    ),
    "response before the projection": ("context", (_LITTLE, "--model.objective.response=context")),
    "both, and all queries: the paper's": ("paper", recipe("paper")),
    "L_stat relative to the guidance": (
        "relative",
        ("--model.objective.stat_scale=relative", "--model.objective.stat_weight=1"),
    ),
    "L_attn floored at video's own gap": ("floor", (_LITTLE, "--model.objective.attn_floor=true")),
    "relative L_stat, floored L_attn": ("relative-floor", recipe("relative")),
    "without L_attn": ("stat", (_NO_ATTN,)),
}
"""What it is → label and options."""
_FAR: Final = ("audio", "3d-gray")  # senses that the frozen encoder does not read by itself
_EVERYWHERE: Final = ("attn", "full", "relative-floor", "stat")


def remedies(seeds: Seeds) -> list[Row]:
    """What keeps L_attn from collapsing tokens: all on sound and gray depth, some elsewhere."""
    return [
        aligned(sense, seeds, text, label, *options)
        for sense in SINGLE
        for text, (label, options) in _REMEDIES.items()
        if sense in _FAR or label in _EVERYWHERE
    ]


SWEPT: Final = "3d-gray"  # where alignment matters most


def _swept(seeds: Seeds, unit: str, values: Mapping[str, tuple[str, ...]]) -> list[Row]:
    """One setting at several values; the study's own value is called full."""
    rows = []
    for value, options in values.items():
        label = f"{unit}={value}" if options else "full"
        rows.append(aligned(SWEPT, seeds, f"{unit} {value}", label, *options))
    return rows


def ranks(seeds: Seeds) -> list[Row]:
    """Table 6: rank of the vision adapter."""
    options = {
        str(r): (f"--model.lora.rank={r}", f"--model.lora.alpha={2 * r}") for r in (8, 16, 32, 64)
    }
    return _swept(seeds, "rank", options | {"16": ()})


def steps(seeds: Seeds) -> list[Row]:
    """How long to align."""
    options = {str(n): (f"--trainer.max_steps={n}",) for n in (20, 50, 150, 500)}
    return _swept(seeds, "steps", options | {"150": ()})


def betas(seeds: Seeds) -> list[Row]:
    """Weight of L_stat."""
    options = {
        value: (f"--model.objective.stat_weight={value}",)
        for value in ("0.001", "0.01", "0.1", "1")
    }
    return _swept(seeds, "β", options | {"0.1": ()})


def data(seeds: Seeds) -> list[Row]:
    """How scores grow with the share of tuning clips; alignment has all of them, unpaired."""
    return [
        row
        for share in (0.01, 0.03, 0.1, 1.0)
        for clips in (f"{share:.0%} of the clips",)
        for row in (
            plain(SWEPT, seeds, f"no alignment, {clips}", "raw", share),
            aligned(SWEPT, seeds, f"V-LynX, {clips}", share=share),
        )
    ]


def references(seeds: Seeds) -> list[Row]:
    """Table 7: how many reference videos, and whose."""
    few = [
        aligned(SWEPT, seeds, f"{count} of its own", f"videos={videos}", videos=videos)
        for videos, count in ((1, "1 video"), (16, "16 videos"), (128, "128 videos"))
    ]
    others = [
        aligned(SWEPT, seeds, f"500 videos of {SENSES[o].title}", f"guidance={o}", guided_by=o)
        for o in ("audio", "highfps", "ego")
    ]
    return [*few, aligned(SWEPT, seeds, "500 videos of its own"), *others]


def pave(seeds: Seeds) -> list[Row]:
    """What PAVE's patch needs to learn: the width of the patch, and steps."""
    narrow, long = "--model.streams.hidden=64", "--trainer.max_steps=1500"
    ways = {
        "512 wide, 300 steps": ("", ()),
        "512 wide, 1500 steps": ("long", (long,)),
        "64 wide, 300 steps": ("narrow", (narrow,)),
        "64 wide, 1500 steps": ("narrow-long", (narrow, long)),
    }
    return [
        Row(
            "3d",
            text,
            tuple(Tuning("3d", seed, "pave", options=options, label=label) for seed in seeds),
        )
        for text, (label, options) in ways.items()
    ]


def together(seeds: Seeds) -> list[Row]:
    """Sound and depth of the same clips: adapters that were aligned apart, asked about both."""
    sound, depth = SENSES["both"].parts
    long = ("--trainer.max_steps=1200",)
    ways: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
        "neither": ((), (), ""),
        "sound alone": ((sound,), (), ""),
        "depth alone": ((depth,), (), ""),
        "both": ((sound, depth), (), ""),
        "both, twice the steps": ((sound, depth), long, "long"),
    }
    tunings = {
        text: tuple(
            Tuning(
                "both",
                seed,
                "aligned" if parts else "lora-only",
                tuple(Alignment(part, seed) for part in parts),
                options,
                label=label,
            )
            for seed in seeds
        )
        for text, (parts, options, label) in ways.items()
    }
    return [Row(sense, text, runs) for sense in (sound, depth) for text, runs in tunings.items()]


TABLES: Final[Mapping[str, Callable[[Seeds], list[Row]]]] = {
    "senses": senses,
    "components": components,
    "remedies": remedies,
    "ranks": ranks,
    "steps": steps,
    "betas": betas,
    "data": data,
    "references": references,
    "together": together,
    "pave": pave,
}
"""Name → what it runs; the later ones take guidance and adapters of the first's runs."""
USUAL: Final = ("senses", "components", "data", "together")  # two to three hours on two cores
