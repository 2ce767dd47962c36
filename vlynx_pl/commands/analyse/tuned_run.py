"""A tuned run whose questions are asked again, and where its LLM looks in each."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.base import ModalityDataModule
from datamodules.media.instances import instance_labels
from datamodules.samples import Episode
from vlynx_pl.analysis.attention_maps import (
    NEUTRAL,
    TEXTS,
    QuestionAttention,
    question_attention,
    relative,
)
from vlynx_pl.backbones import VideoBackbone
from vlynx_pl.commands.asking import as_episode, open_run
from vlynx_pl.commands.configuration import instantiate
from vlynx_pl.io.errors import UserError
from vlynx_pl.questions import Question
from vlynx_pl.runs.run_folder import plain_data
from vlynx_pl.stream_tokens import StreamTokens
from vlynx_pl.streams import AlignedStreams


class Looked(NamedTuple):
    """Where the LLM looks in all its L layers, for one way of reading the modalities."""

    answer: str
    names: Sequence[str]  # of the streams that the LLM reads
    found: QuestionAttention
    neutral: QuestionAttention

    def shares(self) -> dict[str, Tensor]:
        """Each stream and text → its share (L,) of all attention."""
        return dict(zip((*self.names, *TEXTS), self.found.shares.T, strict=True))

    def relative(self) -> dict[str, Tensor]:
        """Each stream → its map (L, T, N) relative to the neutral question's."""
        pairs = zip(self.found.maps, self.neutral.maps, strict=True)
        return dict(zip(self.names, (relative(*pair) for pair in pairs), strict=True))


class TunedRun:
    """A tuned run and the data that it is tested on.

    Args:
        run: its folder.

    Raises:
        UserError: the folder is not that of a tuned run.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.module, _ = open_run(run)
        self._saved = plain_data(run / "config.yaml")
        self.module.choices = self._saved["model"]["init_args"].get("choices", "")

    @property
    def backbone(self) -> VideoBackbone:
        """The frozen Video LLM."""
        return self.module.backbone

    @property
    def streams(self) -> StreamTokens:
        """How the run reads its streams."""
        return self.module.streams

    @cached_property
    def _data(self) -> ModalityDataModule:
        data: ModalityDataModule = instantiate(
            ModalityDataModule, self._saved["data"], frame_size=self.backbone.frame_size
        )
        data.setup("test")
        return data

    @cached_property
    def episodes(self) -> dict[str, Episode]:
        """Clip → its episode, of the split that the run is tested on.

        Raises:
            UserError: the run's data cannot be used.
        """
        return {one.name: one for one in self._data.episodes(self._data.test_split)}

    def unaligned(self) -> StreamTokens | None:
        """The same streams, all read by the base encoder; None if they are already, or reduced."""
        streams = self.streams
        if not isinstance(streams, AlignedStreams) or streams.reduction:
            return None
        if not any(how["adapter"] for how in streams.reads().values()):
            return None
        base = AlignedStreams(dict.fromkeys(streams.modalities, "base"))
        base.attach(self.backbone, None)
        return base

    def read(self, clip: str) -> tuple[dict[str, Any], Tensor | None]:
        """Read a clip's streams, and the instance labels (T, H, W) of its video if it has any.

        Raises:
            UserError: the run is not tested on this clip, or a file cannot be used.
        """
        if clip not in self.episodes:
            raise UserError(
                f"{self.run} is not tested on {clip}; give runs that are tested on the same clips"
            )
        streams = self._data.joined.streams(self.episodes[clip])
        return as_episode(streams.read(), self.backbone), instance_labels(streams.files)

    def look(
        self, streams: StreamTokens, episode: Mapping[str, Any], question: Question, rows: str
    ) -> Looked:
        """Answer a question, and measure where the LLM looks.

        Args:
            streams: how the modalities are read.
            episode: from :meth:`read`.
            question: about its clip.
            rows: see :func:`vlynx_pl.analysis.attention_maps.question_attention`.
        """
        with torch.inference_mode():
            kept = streams.encode(episode)
            tokens = streams.tokens(kept, episode)
        [answer] = self.module.answers({**episode, "tokens": kept, "questions": [question]})
        layers = range(1, 1 + self.backbone.model.config.text_config.num_hidden_layers)
        asked, each = [question, NEUTRAL], [rows, rows if rows == "last" else "words"]
        found = question_attention(self.backbone, tokens, asked, layers, each, self.module.task)
        return Looked(answer, streams.names[: len(tokens)], *found)
