"""The two objectives: clips of one modality for alignment, or episodes for tuning.

Both list the recordings of a part (``recordings``), make unread ``items`` of a recording, and have
a ``reader`` of items and a function ``batch`` that can be pickled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from datamodules.loading.frame_cache import FrameCache
from datamodules.loading.loader import SampleDataset
from datamodules.loading.reading import ReadClip, ReadEpisode, collate
from datamodules.loading.recordings import (
    BenchmarkRecordings,
    Expected,
    Part,
    UnpairedRecordings,
)
from datamodules.loading.settings import LoadingSettings, Objective
from datamodules.modalities.modality import Modalities
from datamodules.samples import BadSample, Clip, Episode, EpisodeMedia, Streams
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.tensor_store import TokenStore


class Alignment:
    """Frames of one modality, unpaired and without text, and plain video for the guidance.

    Args:
        modalities: a single one.
        settings: of the data module.

    Raises:
        UserError: there are several, or its clips cannot be batched.
    """

    kind = "clips"

    def __init__(self, modalities: Modalities, settings: LoadingSettings) -> None:
        if (count := len(modalities.each)) > 1:
            raise UserError(f"alignment takes one modality at a time, not {count}")
        [self._modality] = modalities.each
        self._modality.check_batches(settings.batch_size)
        self._modalities, self._settings = modalities, settings
        other = settings.reference_root
        self.recordings = UnpairedRecordings(
            modalities.root_of(self._modality),
            settings.benchmark,
            settings.held_out,
            modality=self._modality,
            reference_root=None if other is None else Path(other),
        )
        self.batch = partial(collate, frame_size=settings.frame_size)

    def parts(self, stage: str) -> tuple[Part, ...]:
        """The parts that a Lightning stage reads."""
        return ("train", "val", "reference") if stage == "fit" else ("val",)

    def items(
        self, part: Part, recording: Expected, learnt: bool
    ) -> tuple[list[Clip], list[BadSample]]:
        """Clips of a recording, unread; raises BadSample if it cannot be used."""
        source, spec = self._source(recording), self._modalities.spec_of(self._modality)
        if part == "reference":
            return self._modality.reference_clips(source, spec), []
        return self._modality.clips(source, spec), []

    def streams(self, recording: Expected) -> Streams:
        """The modality of a recording together with its own video, unread.

        Raises:
            UserError: the modality cannot be read with a video.
        """
        spec = self._modalities.spec_of(self._modality)
        return self._modality.streams(self._source(recording), spec)

    def _source(self, recording: Expected) -> Any:
        if recording.episode is None:
            return recording.source
        return self._modality.locate(recording.root, recording.episode)

    def reader(self, part: Part) -> ReadClip:
        kind = "reference" if part == "reference" else "modality"
        return ReadClip(self._settings.frame_size, _cache(self._modalities, self._settings), kind)


class Tuning:
    """Episodes: a clip's video, its modalities, and all its questions.

    Args:
        modalities: those of each clip.
        settings: of the data module.

    Raises:
        UserError: there is no benchmark.
    """

    kind = "episodes"
    batch: Callable[[list[Any]], Any] = list

    def __init__(self, modalities: Modalities, settings: LoadingSettings) -> None:
        if settings.benchmark is None:
            raise UserError("objective=tuning needs questions; give data.benchmark")
        self._benchmark = settings.benchmark
        self._modalities, self._settings = modalities, settings
        self.recordings = BenchmarkRecordings(
            modalities.root, settings.benchmark, settings.held_out
        )
        self.unread: frozenset[str] = frozenset()
        self._tokens: TokenStore | None = None

    def parts(self, stage: str) -> tuple[Part, ...]:
        """The parts that a Lightning stage reads."""
        by_stage: dict[str, tuple[Part, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        return by_stage.get(stage, (self._settings.test_split,))

    def items(
        self, part: Part, recording: Expected, learnt: bool
    ) -> tuple[list[EpisodeMedia], list[BadSample]]:
        """The episode of a recording, unread, and what is bad about its questions.

        Args:
            part: of the recording.
            recording: from a benchmark.
            learnt: whether the questions are learnt, or only asked.

        Raises:
            BadSample: the recording cannot be used.
        """
        assert recording.episode is not None
        streams = self._modalities.streams(recording.episode)
        episode, bad = self._fit(part, recording.episode, learnt)
        return [EpisodeMedia(episode, streams)] if episode.questions else [], bad

    def reader(self, part: Part) -> ReadEpisode:
        return replace(self.frame_reader(), tokens=self._tokens, unread=self.unread)

    def frame_reader(self) -> ReadEpisode:
        """A reader of frames that uses neither stored tokens nor ``unread``."""
        cache = _cache(self._modalities, self._settings)
        return ReadEpisode(self._settings.frame_size, self._modalities.preprocessing, cache)

    def keep_tokens(self, store: TokenStore, items: Sequence[EpisodeMedia]) -> SampleDataset:
        """Do not read items whose tokens are in a store; return the others."""
        self._tokens, reader = store, self.frame_reader()
        return SampleDataset([one for one in items if not store.holds(reader.key(one))], reader)

    def _fit(self, part: Part, episode: Episode, learnt: bool) -> tuple[Episode, list[BadSample]]:
        """The episode with its usable questions, and what is bad about the others."""
        if (unfit := self._settings.unfit) is None:
            return episode, []
        assert part != "reference"
        files = self._benchmark.files(part)
        path = files[0] if len(files) == 1 else self._benchmark.annotations
        reasons = {one.id: unfit(one, learnt and part != "test") for one in episode.questions}
        remedy = "Correct the annotation, or leave the question out with data.on_bad_sample=skip"
        bad = [BadSample(path, reason, remedy, "question") for reason in reasons.values() if reason]
        questions = tuple(one for one in episode.questions if reasons[one.id] is None)
        return replace(episode, questions=questions), bad


Serving: TypeAlias = Alignment | Tuning
SERVING: Final[Mapping[Objective, type[Serving]]] = {"alignment": Alignment, "tuning": Tuning}


def _cache(modalities: Modalities, settings: LoadingSettings) -> FrameCache | None:
    folder = settings.cache_dir
    return None if folder is None else FrameCache(Path(folder), modalities.preprocessing)
