"""A tuned run as a model of lmms-eval, found through its entry point: ``--model vlynx``.

lmms-eval brings tasks, prompts and scores; the run's data module makes the streams of each video,
and all questions on a video are answered from one encoding. Only lmms-eval imports this file.
"""

import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from lmms_eval.api.model import lmms
from typing_extensions import override

from vlynx_pl.io.errors import UserError
from vlynx_pl.io.progress import track
from vlynx_pl.questions import Question

_GREEDY: Final = {"do_sample": False, "temperature": 0, "num_beams": 1, "repetition_penalty": 1}
_IGNORED: Final = {"top_p", "top_k", "seed"}  # they do not change the most likely token


def manifest() -> Any:
    """Return what lmms-eval's registry asks the entry point for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("vlynx", simple_class_path=f"{__name__}.VlynxModel")


class VideoRequest(NamedTuple):
    """A request of lmms-eval."""

    question: Question
    video: Path
    max_new_tokens: int | None  # None: the run's own
    until: tuple[str, ...]  # texts that end the answer


class VlynxModel(lmms):  # type: ignore[misc]
    """Answers lmms-eval's questions on videos, greedily.

    Of several processes (``accelerate launch -m lmms_eval``) each answers the documents that
    lmms-eval gives it, with a model of its own.

    Args:
        run: folder of a tuned run.
        device: such as ``cuda:1``; None is the process's GPU, or the CPU if there is none.
        batch_size: ignored, as the questions on a video are a batch; lmms-eval always gives it.
        max_batch_size: ignored likewise.
    """

    def __init__(
        self,
        run: str,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        from vlynx_pl.commands.asking import open_run

        super().__init__()
        chosen = None if device is None else torch.device(device)
        # lmms-eval converts run=7 into a number.
        self._module, self._read = open_run(Path(str(run)), chosen)
        self.device = self._module.device  # lmms-eval gathers the counts of processes there

    @override
    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer the requests, in their order.

        Raises:
            UserError: before anything is answered, if a request is not about one existing video, or
                its settings cannot be followed.
        """
        from vlynx_pl.answering import answer

        asked: list[VideoRequest] = []
        for prompt, settings, visuals, document, task, split in (each.args for each in requests):
            name = f"{task}, document {document}"
            video = the_video(name, visuals(self.task_dict[task][split][document]))
            asked.append(VideoRequest(Question(name, prompt, ()), video, *followed(name, settings)))
        groups: dict[Path, dict[int | None, list[int]]] = {}  # video → length → indices of requests
        for index, request in enumerate(asked):
            groups.setdefault(request.video, {}).setdefault(request.max_new_tokens, []).append(
                index
            )
        answers = [""] * len(asked)
        for video, lengths in track(groups.items(), "Answering", disable=self.rank != 0):
            with torch.inference_mode():
                tokens = self._module.encode(self._read({"video": video}))
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
