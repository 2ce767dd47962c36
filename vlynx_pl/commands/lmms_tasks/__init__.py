"""Seven benchmarks as tasks of lmms-eval, for any of its models: ``--include_path`` this folder.

Each ``*.yaml`` is a task, and ``benchmark`` is what they have in common. A document only names a
question: clips, prompts, answers and scores come from the benchmark's own reader and protocol.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Final

from lightning.pytorch.utilities import rank_zero_warn
from torchvision.transforms.v2.functional import to_pil_image

from datamodules import Audio, Depth, Ego
from datamodules.benchmarks.base import protocol_of, readers
from datamodules.media.scannet import ScanNetFrame, ScanNetScene, open_scene
from datamodules.media.scannet_frames import farthest_frames
from datamodules.modalities.depth import SceneFolder
from datamodules.modalities.ego import Take
from datamodules.samples import Episode, Question, Split
from vlynx_pl.io.errors import UserError
from vlynx_pl.metrics import Answered, Scores, describe_failures, failures
from vlynx_pl.metrics.answered import merged
from vlynx_pl.metrics.figures import Figures

_MODALITIES: Final = {one.name: one for one in (Audio(), Depth(), Ego())}
_FRAMES: Final = 20  # of a scene, as in the paper


def data_root() -> Path:
    """The folder of the media, ``$VLYNX_DATA``; raises UserError if it is not set."""
    if not (root := os.environ.get("VLYNX_DATA")):
        raise UserError(
            "VLYNX_DATA is not set; set it to the folder of the benchmark's media, and "
            "VLYNX_ANNOTATIONS to that of its official files if it is another one"
        )
    return Path(root)


def documents(benchmark: str, split: Split, figures: Sequence[str], template: Any) -> Any:
    """Return the questions of a split as a data set of lmms-eval, those on a clip together.

    Args:
        benchmark: name of its reader, such as ``ScanQA``.
        split: the one that is evaluated.
        figures: those that lmms-eval shows.
        template: a ``datasets.Dataset``, whose content is ignored.

    Raises:
        UserError: an annotation file or a video is missing or cannot be used, or Java is needed and
            does not run.
    """
    protocol_of(benchmark).check()
    asked = _questions(benchmark, split, _annotations())
    for episode in {episode.name: episode for episode, _ in asked.values()}.values():
        _source(benchmark, episode)
    return template.from_list(
        [
            {
                "vlynx_benchmark": benchmark,
                "split": split,
                "question_id": question.id,
                "prompt": "\n".join(_turns(question)),
                "answers": list(question.answers),
                "figures": list(figures),
            }
            for _, question in asked.values()
        ]
    )


def asked_in(document: Mapping[str, Any]) -> tuple[Episode, Question]:
    """Return the clip and the question of a document."""
    benchmark, split = document["vlynx_benchmark"], document["split"]
    return _questions(benchmark, split, _annotations())[document["question_id"]]


def visuals(document: Mapping[str, Any]) -> list[Any]:
    """Return what every model can see: the path of a video, or colour frames of a scene.

    Of a take, it is the first view that its annotation names, which is the person's own. Frames are
    PIL images in order of time, at most 20, whose cameras are farthest from each other.

    Raises:
        BadSample: a file is missing or cannot be used.
    """
    match _source(document["vlynx_benchmark"], asked_in(document)[0]):
        case SceneFolder(folder):
            scene, frames = _chosen(folder)
            return [to_pil_image(scene.read_colour(frame)) for frame in frames]
        case Take() as take:
            return [str(next(iter(take.views().values())))]
        case video:
            return [str(video.path)]


def messages(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a document as a chat: what is seen, earlier rounds if there are any, the question."""
    shown = [
        {"type": "video" if isinstance(one, str) else "image", "url": one}
        for one in visuals(document)
    ]
    chat: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[number % 2], "content": [{"type": "text", "text": text}]}
        for number, text in enumerate(_turns(asked_in(document)[1]))
    ]
    chat[0]["content"] = shown + chat[0]["content"]
    return chat


def results(document: Mapping[str, Any], said: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return what each figure needs of an answer: the question's id, and what the model said."""
    return dict.fromkeys(document["figures"], (document["question_id"], said[0]))


def figure(benchmark: str, split: Split, name: str, said: Sequence[tuple[str, str]]) -> float:
    """Compute a figure of all answers (:func:`results`) to the questions that were asked."""
    return _figures(benchmark, split, _annotations(), tuple(said))[name]


@lru_cache(maxsize=1)  # lmms-eval asks for a task's figures one after the other
def _figures(
    benchmark: str, split: Split, annotations: str, said: tuple[tuple[str, str], ...]
) -> Figures:
    known = _questions(benchmark, split, annotations)
    answered = [
        Answered.of(question, text, episode.name)
        for (episode, question), text in ((known[identifier], text) for identifier, text in said)
    ]
    figures = Scores(protocol_of(benchmark)).figures(merged(answered))
    if failed := failures(figures):
        rank_zero_warn(describe_failures(failed))
    return figures


@cache
def _questions(
    benchmark: str, split: Split, annotations: str
) -> dict[str, tuple[Episode, Question]]:
    episodes = readers()[benchmark](annotations).episodes(split)
    return {one.id: (episode, one) for episode in episodes for one in episode.questions}


@cache
def _chosen(folder: Path) -> tuple[ScanNetScene, list[ScanNetFrame]]:
    scene = open_scene(folder)
    return scene, farthest_frames(scene, _FRAMES)


def _annotations() -> str:
    return os.environ.get("VLYNX_ANNOTATIONS") or str(data_root())


def _source(benchmark: str, episode: Episode) -> Any:
    return _MODALITIES[readers()[benchmark].modality].locate(data_root(), episode)


def _turns(question: Question) -> list[str]:
    return [text for turn in question.history for text in turn] + [question.prompt]


def _task(
    benchmark: str, split: Split, *figures: str
) -> tuple[Callable[[Any], Any], list[dict[str, Any]]]:
    """Return ``process_docs`` and ``metric_list`` of a task, the paper's figure first."""
    names = [f"{protocol_of(benchmark).name}/{name}" for name in figures]
    return partial(documents, benchmark, split, names), [
        {
            "metric": name,
            "aggregation": partial(figure, benchmark, split, name),
            "higher_is_better": True,
        }
        for name in names
    ]


_CAPTIONS: Final = ("cider", "bleu4", "meteor", "rouge_l")
scanqa, scanqa_figures = _task("ScanQA", "val", *_CAPTIONS, "em1", "em1_refined")
sqa3d, sqa3d_figures = _task("SQA3D", "test", "em1", "em1_refined")
avsd, avsd_figures = _task("AVSD", "test", *(f"{name}_1ref" for name in _CAPTIONS))
avqa, avqa_figures = _task("AVQA", "val", "substring", "strict")
music_avqa, music_avqa_figures = _task("MusicAVQA", "test", "substring", "strict")
avut, avut_figures = _task("AVUT", "test", "strict")
egoexo, egoexo_figures = _task("EgoExo4D", "val", "substring", "level")
