"""The tables of the study: the runs of each row, for every seed."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from experiments.paper.study import BATCH, MODALITIES, AlignmentRun, TuningRun

Seeds = Sequence[int]
SINGLE: Final = [name for name, one in MODALITIES.items() if not one.parts and not one.asked]
_BLIND: Final = ("zero-shot", "lora-only")  # methods that read only the video


@dataclass(frozen=True)
class Row:
    """A row of a table: the same run with several seeds."""

    modality: str
    label: str
    tunings: tuple[TuningRun, ...]

    def without(self, names: Collection[str]) -> Self:
        """Return the row without the runs of these names."""
        return replace(self, tunings=tuple(t for t in self.tunings if t.name not in names))


def aligned(
    modality: str,
    seeds: Seeds,
    text: str,
    label: str = "full",
    *options: str,
    videos: int = 500,
    guided_by: str = "",
    share: float = 1.0,
) -> Row:
    """Return a row of tunings on aligned tokens; ``guided_by`` is the source of the guidance."""
    tunings = []
    for seed in seeds:
        guidance = AlignmentRun(guided_by, seed) if guided_by else None
        alignment = AlignmentRun(modality, seed, label, options, videos, guidance)
        tunings.append(TuningRun(modality, seed, "aligned", (alignment,), share=share))
    return Row(modality, text, tuple(tunings))


def plain(modality: str, seeds: Seeds, text: str, method: str, share: float = 1.0) -> Row:
    """Return a row of tunings without alignment."""
    seen = (
        "3d" if modality == "3d-gray" and method in _BLIND else modality
    )  # their video is the same
    return Row(modality, text, tuple(TuningRun(seen, seed, method, share=share) for seed in seeds))


def modalities(seeds: Seeds) -> list[Row]:
    """Tables 1 to 4: each modality against the baselines."""
    return [
        row
        for modality in SINGLE
        for row in (
            plain(modality, seeds[:1], "zero-shot", "zero-shot"),  # does not depend on the seed
            plain(modality, seeds, "LoRA-only", "lora-only"),
            plain(modality, seeds, "PAVE", "pave"),
            plain(modality, seeds, "no alignment", "raw"),
            aligned(modality, seeds, "V-LynX"),
        )
    ]


_NO_ATTN, _NO_STAT = "--model.objective.attn_weight=0", "--model.objective.stat_weight=0"
ABLATED: Final = ("audio", "3d", "3d-gray")


def components(seeds: Seeds) -> list[Row]:
    """Table 5: what each part of the method contributes."""
    return [
        row
        for modality in ABLATED
        for row in (
            aligned(modality, seeds, "L_attn + L_stat"),
            aligned(modality, seeds, "without L_attn", "stat", _NO_ATTN),
            aligned(modality, seeds, "without L_stat", "attn", _NO_STAT),
            plain(modality, seeds, "no alignment", "raw"),
            plain(modality, seeds, "no interface adaptation, both tuned", "joint"),
        )
    ]


def recipe(name: str) -> tuple[str, ...]:
    """Return the options for a recipe of ``experiments/align/recipes``."""
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
"""Row → label and options."""
_FAR: Final = (
    "audio",
    "3d-gray",
)  # modalities that the frozen encoder does not read without alignment
_EVERYWHERE: Final = ("attn", "full", "relative-floor", "stat")


def remedies(seeds: Seeds) -> list[Row]:
    """What prevents L_attn from collapsing tokens: all on sound and gray depth, some elsewhere."""
    return [
        aligned(modality, seeds, text, label, *options)
        for modality in SINGLE
        for text, (label, options) in _REMEDIES.items()
        if modality in _FAR or label in _EVERYWHERE
    ]


SWEPT: Final = "3d-gray"  # the modality where alignment matters most


def _swept(seeds: Seeds, unit: str, values: Mapping[str, tuple[str, ...]]) -> list[Row]:
    """Return a row per value of a setting; the label of the study's own value is ``full``."""
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
    """How scores grow with the share of tuning clips; alignment uses all of them, unpaired."""
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
        aligned(SWEPT, seeds, f"500 videos of {MODALITIES[o].title}", f"guidance={o}", guided_by=o)
        for o in ("audio", "highfps", "ego")
    ]
    return [*few, aligned(SWEPT, seeds, "500 videos of its own"), *others]


def pave(seeds: Seeds) -> list[Row]:
    """What PAVE's patch needs in order to learn: width of the patch, and steps."""
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
            tuple(TuningRun("3d", seed, "pave", options=options, label=label) for seed in seeds),
        )
        for text, (label, options) in ways.items()
    ]


def together(seeds: Seeds) -> list[Row]:
    """Sound and depth of the same clips: adapters aligned separately, questions about both."""
    sound, depth = MODALITIES["both"].parts
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
            TuningRun(
                "both",
                seed,
                "aligned" if parts else "lora-only",
                tuple(AlignmentRun(part, seed) for part in parts),
                options,
                label=label,
            )
            for seed in seeds
        )
        for text, (parts, options, label) in ways.items()
    }
    return [
        Row(modality, text, runs) for modality in (sound, depth) for text, runs in tunings.items()
    ]


def along(seeds: Seeds) -> list[Row]:
    """Whether to train the vision adapter with the LLM's, from nothing or from alignment."""
    rows = []
    for modality in SINGLE:
        tunings = tuple(
            TuningRun(modality, seed, "along", (AlignmentRun(modality, seed),)) for seed in seeds
        )
        rows += [
            plain(modality, seeds, "no alignment", "raw"),
            aligned(modality, seeds, "V-LynX"),
            Row(modality, "aligned, then trained along", tunings),
            plain(modality, seeds, "no interface adaptation, both tuned", "joint"),
        ]
    return rows


_MAPS: Final = {
    "shift": "the mean",
    "scale": "mean and variance of each channel",
    "transport": "all covariances, by optimal transport",
    "colouring": "all covariances, by whitening and colouring",
}


def moments(seeds: Seeds) -> list[Row]:
    """What alignment adds beyond moments: raw tokens mapped in closed form, without training."""
    return [
        row
        for modality in SINGLE
        for row in (
            plain(modality, seeds, "no alignment", "raw"),
            *(plain(modality, seeds, text, how) for how, text in _MAPS.items()),
            aligned(modality, seeds, "V-LynX"),
        )
    ]


_SHARES: Final = {"50 %": 0.5, "25 %": 0.25, "12 %": 0.125}
_SQUARES: Final = {"56 %": 9, "25 %": 4, "6 %": 1}  # of the 16 tokens of a frame
_ALL: Final = (1.0,)


def _reduced(
    modality: str,
    seeds: Seeds,
    text: str,
    label: str,
    keep: object,
    reduce: object,
    elastic: Sequence[float] = (),
    tuned: Sequence[TuningRun] = (),
) -> Row:
    """Return a row of runs on clips of four frames; those of ``tuned`` are only asked again."""
    reads = {"keep": keep, "reduce": reduce, "elastic": [*elastic]}
    options = ["--data.frames=4"]
    options += [
        f"--model.streams.{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in reads.items()
    ]
    other = {run.seed: run for run in tuned}
    runs = []
    for seed in seeds:
        alignments = () if modality == "rgb" else (AlignmentRun(modality, seed),)
        method, of = "aligned" if alignments else "lora-only", (*options,)
        run = TuningRun(modality, seed, method, alignments, of, label=label, tuned=other.get(seed))
        runs.append(run)
    return Row(modality, text, tuple(runs))


def _sizes(modality: str, seeds: Seeds, how: str, stream: str) -> list[Row]:
    """Return rows of one reducer: tuned on all tokens and reduced to answer, and tuned reduced."""

    def of(keep: float) -> tuple[object, object]:
        return (keep, how) if how == "spread" else ({stream: keep}, {stream: how})

    whole = _reduced(modality, seeds, f"{how}, 100 %", f"{how}-all", *of(1.0), _ALL)
    rows = [whole]
    for share, keep in (_SQUARES if how == "pool" else _SHARES).items():
        text, label = f"{how}, {share}", f"{how}-{keep:g}"
        free = (f"{text}, training-free", f"{label}-free", *of(keep), _ALL, whole.tunings)
        ways = free, (text, label, *of(keep))
        rows += [_reduced(modality, seeds, *way) for way in ways]
    return rows


def reduction(seeds: Seeds) -> list[Row]:
    """Fewer tokens: of the modality, of both streams, and of RGB alone (see docs/tuning.md)."""
    rows = []
    for modality in ("3d-gray", "audio"):
        name = MODALITIES[modality].world
        for how in ("salient", "random", "pool", "spread"):
            rows += _sizes(modality, seeds, how, name)
        shares = (1.0, *_SHARES.values())
        salient, pooled = {name: "salient"}, {"video": "pool"}
        for text, label, keep, reduce, elastic in (
            ("salient, 25 %, elastic", "elastic", {name: 0.25}, salient, shares),
            ("pool, 25 % of both", "pool-both", {"video": 4, name: 4}, pooled | {name: "pool"}, ()),
            ("salient and pooled video, 25 % each", "both", {"video": 4, name: 0.25}, salient, ()),
        ):
            rows.append(_reduced(modality, seeds, text, label, keep, reduce, elastic))
        both = dict.fromkeys(("video", name), "random")
        share = dict.fromkeys(both, 0.25)
        rows.append(_reduced(modality, seeds, "random, 25 % of both", "random-both", share, both))
    for how in ("pool", "random", "salient", "spread"):
        rows += _sizes("rgb", seeds, how, "video")
    return rows


_VARIANTS: Final = "experiments.paper.variants"
_FLOORED: Final = (
    f"--model.objective={_VARIANTS}.FlooredObjective",
    "--model.objective.attn_floor=true",
    "--model.objective.stat_scale=relative",
    "--model.objective.stat_weight=1",
)
_GEOMETRY: Final = (
    f"--model={_VARIANTS}.GeometryAlignment",
    f"--model.objective={_VARIANTS}.GeometryObjective",
)


def costs(seeds: Seeds) -> list[Row]:
    """What removes the cost of alignment where the encoder reads a modality by itself."""
    rows = []
    for modality in ("ego", "highfps", SWEPT):
        floor = (
            f"--trainer.callbacks+={_VARIANTS}.StatisticsFloor",
            f"--trainer.callbacks.frames={BATCH * MODALITIES[modality].frames}",
        )
        raw = tuple(TuningRun(modality, seed, "named") for seed in seeds)
        named = tuple(
            TuningRun(modality, seed, "named", (AlignmentRun(modality, seed),)) for seed in seeds
        )
        rows += [
            plain(modality, seeds, "no alignment", "raw"),
            Row(modality, "no alignment, named in the prompt", raw),
            aligned(modality, seeds, "V-LynX"),
            Row(modality, "V-LynX, named in the prompt", named),
            aligned(modality, seeds, "floors under L_attn and L_stat", "floors", *_FLOORED, *floor),
            aligned(modality, seeds, "with 1 - CKA to raw tokens", "geometry", *_GEOMETRY),
        ]
    return rows


TABLES: Final[Mapping[str, Callable[[Seeds], list[Row]]]] = {
    "modalities": modalities,
    "components": components,
    "remedies": remedies,
    "ranks": ranks,
    "steps": steps,
    "betas": betas,
    "data": data,
    "references": references,
    "together": together,
    "pave": pave,
    "along": along,
    "moments": moments,
    "reduction": reduction,
    "costs": costs,
}
"""Name → rows; later tables use guidance and adapters of the first one's runs."""
USUAL: Final = ("modalities", "components", "data", "together")  # two to three hours on two cores
