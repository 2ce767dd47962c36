"""A tuned run as a model of lmms-eval, found through its entry point: ``--model vlynx``.

lmms-eval brings tasks, prompts and scores; the run's data module makes the streams of each clip,
and all questions on a clip are answered from one encoding. Only lmms-eval imports this file, and it
does so for every model; so what takes long is imported where it is used.
"""

import mimetypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from lmms_eval.api.model import lmms
from typing_extensions import override

from vlynx_pl.io.errors import UserError
from vlynx_pl.io.progress import track
from vlynx_pl.questions import Question

if TYPE_CHECKING:
    from datamodules.samples import Episode

_GREEDY: Final = {"do_sample": False, "temperature": 0, "num_beams": 1, "repetition_penalty": 1}
_IGNORED: Final = {"top_p", "top_k", "seed"}  # they do not change the most likely token


def manifest() -> Any:
    """Return what lmms-eval's registry asks the entry point for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("vlynx", chat_class_path=f"{__name__}.VlynxModel")


class Request(NamedTuple):
    """A request of lmms-eval."""

    question: Question
    clip: "Path | Episode"  # a video, or a clip of our own tasks
    max_new_tokens: int | None  # None: the run's own
    until: tuple[str, ...]  # texts that end the answer


class VlynxModel(lmms):  # type: ignore[misc]
    """Answers lmms-eval's questions on videos, greedily.

    Of the clips of our own tasks (:mod:`vlynx_pl.commands.lmms_tasks`), it reads the same streams
    as ``vlynx eval``, such as the depth of a scene.

    Of several processes (``accelerate launch -m lmms_eval``) each answers the documents that
    lmms-eval gives it, with a model of its own.

    Args:
        run: folder of a tuned run.
        device: such as ``cuda:1``; None is the process's GPU, or the CPU if there is none.
        batch_size: ignored, as the questions on a clip are a batch; lmms-eval always gives it.
        max_batch_size: ignored likewise.
    """

    is_simple = False

    def __init__(
        self,
        run: str,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        from vlynx_pl.commands.asking import open_run, read_configuration, reads

        super().__init__()
        chosen = None if device is None else torch.device(device)
        folder = Path(str(run))  # lmms-eval converts run=7 into a number
        self._module, self._read = open_run(folder, chosen)
        size = self._module.backbone.frame_size
        self._modalities, _ = reads(read_configuration(folder), size)
        self.device = self._module.device  # lmms-eval gathers the counts of processes there

    @override
    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer the requests, in their order.

        Raises:
            UserError: before anything is answered, if a request is not about one existing clip, or
                its settings cannot be followed.
        """
        from vlynx_pl.answering import answer

        asked = [self._request(*each.args) for each in requests]
        opened: dict[str, Callable[[], dict[str, Any]]] = {}
        groups: dict[str, dict[int | None, list[int]]] = {}  # clip → length → indices of requests
        for index, request in enumerate(asked):
            # Tasks share a clip if they name the same media.
            clip = str(getattr(request.clip, "media", request.clip))
            if clip not in opened:
                opened[clip] = self._open(request.clip)
            groups.setdefault(clip, {}).setdefault(request.max_new_tokens, []).append(index)
        answers = [""] * len(asked)
        for clip, lengths in track(groups.items(), "Answering", disable=self.rank != 0):
            with torch.inference_mode():
                tokens = self._module.encode(opened[clip]())
            for longest, indices in lengths.items():
                texts = answer(
                    self._module.backbone,
                    tokens,
                    [asked[index].question for index in indices],
                    max_new_tokens=longest or self._module.max_new_tokens,
                    llm_adapter=self._module.task,
                )
                for index, text in zip(indices, texts, strict=True):
                    answers[index] = cut(text, asked[index].until)
        return answers

    def _request(
        self,
        _: str,
        messages: Callable[[Any], Any],
        settings: Mapping[str, Any],
        number: int,
        task: str,
        split: str,
    ) -> Request:
        from vlynx_pl.commands.lmms_tasks import asked_in

        name, document = f"{task}, document {number}", self.task_dict[task][split][number]
        if "vlynx_benchmark" in document:
            clip, question = asked_in(document)
            return Request(question, clip, *followed(name, settings))
        return Request(*conversation(name, messages(document)), *followed(name, settings))

    def _open(self, clip: "Path | Episode") -> Callable[[], dict[str, Any]]:
        """Find the files of a clip; the function that is returned reads them."""
        from vlynx_pl.commands.asking import as_episode
        from vlynx_pl.commands.lmms_tasks import data_root

        if isinstance(clip, Path):
            return partial(self._read, {"video": clip})
        streams = replace(self._modalities, root=data_root()).streams(clip)
        return lambda: as_episode(streams.read(), self._module.backbone)

    @override
    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        task = requests[0].task_name
        raise NotImplementedError(
            f"V-LynX does not score given answers; leave {task} out of --tasks"
        )

    @override
    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        task = requests[0].task_name
        raise NotImplementedError(f"V-LynX answers in one round; leave {task} out of --tasks")


def followed(name: str, settings: Mapping[str, Any]) -> tuple[int | None, tuple[str, ...]]:
    """Return the maximum tokens of an answer (None: the run's own) and the texts that end it.

    Raises:
        UserError: a setting is unknown, or contradicts greedy decoding.
    """
    rest = {key: value for key, value in settings.items() if key not in _IGNORED}
    longest, until = rest.pop("max_new_tokens", None), rest.pop("until", None) or ()
    if longest is not None and (not isinstance(longest, int) or longest < 1):
        raise UserError(f"{name}: max_new_tokens={longest!r} must be 1 or more")
    for key, value in rest.items():
        if key not in _GREEDY:
            raise UserError(f"{name}: V-LynX does not support {key}={value!r}; leave the task out")
        if value not in (None, _GREEDY[key]):
            raise UserError(
                f"{name}: {key}={value!r} is not greedy decoding, which is all that V-LynX does; "
                f"add --gen_kwargs {key}={_GREEDY[key]}"
            )
    return longest, (until,) if isinstance(until, str) else tuple(until)


def conversation(name: str, messages: Sequence[Mapping[str, Any]]) -> tuple[Question, Path]:
    """Return the last question of a chat, with its earlier rounds, and the video that it shows.

    Raises:
        UserError: others than user and assistant speak, or not in turn; or what is shown is not one
            existing video file.
    """
    roles = [message["role"] for message in messages]
    if roles != ["user", *["assistant", "user"] * (len(roles) // 2)]:
        raise UserError(
            f"{name} is a chat of {', '.join(roles)}, but V-LynX reads user and assistant in turn, "
            "the user first and last; leave the task out"
        )
    parts = [part for message in messages for part in message["content"] if part["type"] != "text"]
    texts = [
        "".join(part["text"] for part in message["content"] if part["type"] == "text")
        for message in messages
    ]
    history = tuple(zip(texts[:-1:2], texts[1::2], strict=True))
    # A part of a video has more fields, and is refused.
    shown = [part["url"] if part.keys() == {"type", "url"} else dict(part) for part in parts]
    return Question(name, texts[-1], (), history), the_video(name, shown)


def the_video(name: str, visuals: Any) -> Path:
    """Return the one video file of a document.

    Raises:
        UserError: it has none or several, or images, or the file does not exist.
    """
    match visuals:
        case [str(path)] if not str(mimetypes.guess_type(path)[0]).startswith(("image", "audio")):
            if not Path(path).exists():
                raise UserError(f"{name}: {path} does not exist; download the videos of the task")
            return Path(path)
    raise UserError(
        f"{name} hands over {visuals!r:.80}, but V-LynX answers questions on one video file; leave "
        "the task out, and name the others of its group one by one"
    )


def cut(answer: str, until: Sequence[str]) -> str:
    """Return an answer up to the first of the texts that end it; empty texts are ignored."""
    ends = [answer.find(text) for text in until if text and text in answer]
    return answer[: min(ends, default=len(answer))].rstrip()
