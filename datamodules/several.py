"""Several modalities of one clip at once, from data modules of their own."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import override

from datamodules.base import ModalityDataModule
from datamodules.recordings import Objective
from datamodules.samples import Episode, Frames, Streams
from vlynx_pl.errors import UserError


class SeveralDataModule(ModalityDataModule):
    """Joins what other data modules have on the same clips, for tuning.

    Modalities of one video file are better read by one VideoDataModule with several senses, which
    opens the file once. This joins files of different kinds, such as a video's sound and a scene's
    depth. The RGB stream is that of the first module; every stream keeps its own times.

    Args:
        modules: one data module a kind of file; their own loader settings are not used.
        settings: what all modalities share, see ModalityDataModule; ``root`` is the first module's.
    """

    def __init__(
        self,
        modules: Sequence[ModalityDataModule],
        *,
        objective: Objective = "tuning",
        **settings: Any,
    ) -> None:
        super().__init__(modules[0].root, objective=objective, **settings)
        if self.objective != "tuning":
            raise UserError("alignment takes one modality at a time; give its own data module")
        self.modules = tuple(modules)
        self.modalities = tuple(name for module in modules for name in module.modalities)
        if len(set(self.modalities)) < len(self.modalities):
            raise UserError(
                f"two data modules give a modality of one name ({', '.join(self.modalities)}); "
                "name each once"
            )
        for module in self.modules:
            module.frame_size = self.frame_size

    @property
    @override
    def preprocessing(self) -> dict[str, Any]:
        parts = [[type(module).__name__, module.preprocessing] for module in self.modules]
        return super().preprocessing | {"modules": parts}

    @property
    @override
    def drawing(self) -> dict[str, Any]:
        return {name: drawn for module in self.modules for name, drawn in module.drawing.items()}

    @override
    def locate(self, root: Path, episode: Episode) -> list[Any]:
        return [module.locate(module.root, episode) for module in self.modules]

    @override
    def streams(self, source: list[Any]) -> Streams:
        parts = zip(self.modules, source, strict=True)
        return joined([module.streams(part) for module, part in parts])

    @override
    def streams_of(self, files: Mapping[str, Path], modalities: Collection[str]) -> Streams:
        first, *others = self.modules
        read = [module for module in others if {*module.modalities} & {*modalities}]
        return joined([module.streams_of(files, modalities) for module in (first, *read)])

    @override
    def doubts(self, thorough: bool = False) -> list[str]:
        return [doubt for module in self.modules for doubt in module.doubts(thorough)]

    @override
    def report(self) -> dict[str, list[str]]:
        merged = super().report()
        for module in self.modules:
            for what, lines in module.report().items():
                merged.setdefault(what, []).extend(lines)
        return merged


def joined(parts: Sequence[Streams]) -> Streams:
    """All streams of all parts, the video of the first."""
    files = tuple(file for part in parts for file in part.files)
    return Streams(partial(read_all, [part.read for part in parts]), files)


def read_all(reads: Sequence[Callable[[], dict[str, Frames]]]) -> dict[str, Frames]:
    """The streams of all readers, the video of the first; raises BadSample."""
    streams: dict[str, Frames] = {}
    for read in reads:
        for name, stream in read().items():
            streams.setdefault(name, stream)
    return streams
