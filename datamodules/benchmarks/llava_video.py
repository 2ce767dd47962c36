"""LLaVA-Video-178K: training questions for the high-frame-rate modality."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from typing_extensions import override

from datamodules.benchmarks.base import Benchmark, QuestionRecord
from datamodules.benchmarks.instruct import conversations
from datamodules.samples import Split
from vlynx_pl.io.progress import track
from vlynx_pl.metrics.captions import caption_figures, cider_of_each
from vlynx_pl.metrics.protocols import Protocol

# PAVE's subset: 57k videos of one to three minutes with 114k open-ended questions.
_PAVE: Final = (
    "**/1_2_m_academic_oe_*qa_processed.json",
    "**/1_2_m_youtube_oe_*qa_processed.json",
    "**/2_3_m_academic_oe_*qa_processed.json",
    "**/2_3_m_youtube_oe_*qa_processed.json",
)


class LLaVAVideo(Benchmark):
    """Conversations about videos, from several files of one folder.

    Args:
        annotations: the folder of the data set, or of its JSON files.
        per_video: the number of records to read per id and file; PAVE and the paper use two. None
            reads all.
        patterns: the files, as names or glob patterns; each must exist. None is PAVE's four.
        by_source: whether the archives were unpacked in a folder per ``data_source``.
    """

    modality = "highfps"
    protocol = Protocol(
        "LLaVAVideo",
        "llava_video",
        partial(caption_figures, "llava_video"),
        cider_of_each,
        java=True,
        quick=partial(caption_figures, "llava_video", measures=["cider"]),
    )
    absent = "LLaVA-Video-178K is for training"

    def __init__(
        self,
        annotations: str | Path,
        per_video: int | None = 2,
        patterns: Sequence[str] | None = None,
        by_source: bool = False,
    ) -> None:
        super().__init__(annotations)
        if per_video is not None and per_video < 1:
            raise ValueError(f"per_video={per_video}; give 1 or more, or null for all")
        self.per_video, self.patterns = per_video, tuple(patterns or _PAVE)
        self.folder = "data_source" if by_source else None

    @override
    def files(self, split: Split) -> list[Path]:
        if split != "train":
            return []
        found = [sorted(self.annotations.glob(pattern)) for pattern in self.patterns]
        # A pattern without a file represents the missing file.
        files = [
            path
            for pattern, paths in zip(self.patterns, found, strict=True)
            for path in paths or [self.annotations / pattern]
        ]
        return list(dict.fromkeys(files))

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[QuestionRecord]:
        shown = track(files, "Reading LLaVA-Video-178K")
        yield from conversations(shown, "video", self.per_video, self.folder)
