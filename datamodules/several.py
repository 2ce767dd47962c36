"""Several modalities of one clip at once, from data modules of their own."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from typing_extensions import override

from datamodules.base import ModalityDataModule
from datamodules.samples import Episode, Frames, Streams


class SeveralDataModule(ModalityDataModule):
    """Joins what other data modules have on the same clips, for tuning.

    Modalities of one video file are better read by one VideoDataModule with several senses, which
    opens the file once. This joins files of different kinds, such as a video's sound and a scene's
    depth. The RGB stream is that of the first module; every stream keeps its own times.

    Args:
        modules: one data module a kind of file; their own loader settings are not used.
        settings: what all modalities share, see ModalityDataModule; ``root`` is the first module's.
    """

    def __init__(self, modules: Sequence[ModalityDataModule], **settings: Any) -> None:
        super().__init__(modules[0].root, **{"objective": "tuning", **settings})
        if self.objective != "tuning":
            raise ValueError("alignment takes one modality at a time; give its own data module")
        self.modules = tuple(modules)
        for module in self.modules:
            module.frame_size = self.frame_size

    @property
    @override
    def preprocessing(self) -> dict[str, Any]:
        parts = {type(module).__name__: module.preprocessing for module in self.modules}
        return super().preprocessing | parts

    @override
    def locate(self, episode: Episode) -> list[Any]:
        return [module.locate(episode) for module in self.modules]

    @override
    def streams(self, source: list[Any]) -> Streams:
        parts = [module.streams(part) for module, part in zip(self.modules, source, strict=True)]
        files = tuple(file for part in parts for file in part.files)
        return Streams(partial(read_all, [part.read for part in parts]), files)

    @override
    def report(self) -> dict[str, list[str]]:
        merged = super().report()
        for module in self.modules:
            for what, lines in module.report().items():
                merged.setdefault(what, []).extend(lines)
        return merged


def read_all(reads: Sequence[Callable[[], dict[str, Frames]]]) -> dict[str, Frames]:
    """The streams of all readers, the video of the first; raises BadSample.

    Raises:
        ValueError: two readers give a modality of the same name.
    """
    streams = reads[0]()
    for read in reads[1:]:
        more = read()
        more.pop("video")
        if twice := streams.keys() & more.keys():
            raise ValueError(f"two data modules give {', '.join(twice)}; name each modality once")
        streams |= more
    return streams
