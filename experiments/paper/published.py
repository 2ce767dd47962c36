"""Figures of the V-LynX paper for 0.5B models, which the tables show next to the study's."""

from collections.abc import Mapping
from typing import Final

_SENSES: Final = {
    "audio": ("MUSIC-AVQA", {"LoRA-only": "67.6", "PAVE": "78.8", "V-LynX": "81.1"}),
    "3d": ("ScanQA CIDEr", {"LoRA-only": "70.5", "PAVE": "84.2", "V-LynX": "87.1"}),
    "highfps": ("MVBench", {"PAVE": "46.6", "V-LynX": "53.7"}),
    "ego": ("Ego-Exo4D", {"LoRA-only": "28.2", "PAVE": "32.4", "V-LynX": "38.6"}),
}
_COMPONENTS: Final = {
    "L_attn + L_stat": "87.1",
    "without L_attn": "81.0",
    "without L_stat": "86.2",
    "no interface adaptation, both tuned": "77.3",
}
_RANKS: Final = {"8": "86.1", "16": "86.8", "32": "86.9", "64": "87.1"}
_SOURCES: Final = {
    "500 videos of its own": "87.8 (563 of ScanNet)",
    "500 videos of sound": "87.7 (57k)",
    "500 videos of high frame rate": "87.8 (59k)",
}

PUBLISHED: Final[Mapping[str, Mapping[tuple[str, str], str]]] = {
    "modalities": {
        (modality, row): f"{benchmark} {figure}"
        for modality, (benchmark, figures) in _SENSES.items()
        for row, figure in figures.items()
    },
    "components": {
        (modality, row): f"ScanQA CIDEr {figure}"
        for modality in ("3d", "3d-gray")
        for row, figure in _COMPONENTS.items()
    },
    "ranks": {
        ("3d-gray", f"rank {rank}"): f"ScanQA CIDEr {figure}" for rank, figure in _RANKS.items()
    },
    "references": {
        ("3d-gray", source): f"ScanQA CIDEr {figure}" for source, figure in _SOURCES.items()
    },
}
"""Table → (modality, row) → benchmark and figure."""
