"""The figures of the papers of V-LynX and PAVE that stand beside the study's, of 0.5B models."""

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

PUBLISHED: Final[Mapping[str, Mapping[tuple[str, str], str]]] = {
    "senses": {
        (sense, row): f"{benchmark} {figure}"
        for sense, (benchmark, figures) in _SENSES.items()
        for row, figure in figures.items()
    },
    "components": {
        (sense, row): f"ScanQA CIDEr {figure}"
        for sense in ("3d", "3d-gray")
        for row, figure in _COMPONENTS.items()
    },
}
"""Table → (sense, row) → benchmark and figure."""
