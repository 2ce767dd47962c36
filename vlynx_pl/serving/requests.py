"""Requests in OpenAI's format for chat completions, with parts for every kind of file of a clip.

What cannot be followed is refused by name; nothing is ignored that would change an answer.
"""

import binascii
from base64 import b64decode
from io import BytesIO
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from vlynx_pl.questions import Question
from vlynx_pl.serving.errors import refused

_IGNORED: Final = {"user", "seed", "top_p", "metadata", "store", "stream_options", "service_tier"}
"""Settings that do not change the most likely token."""
_MIXED: Final = "the first message has no clip, or several; give the parts of one clip"

_Text = Annotated[str, Field(max_length=20_000)]
_Tokens = Annotated[int, Field(ge=1, le=1024)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Url(_Strict):
    url: str


class _Sound(_Strict):
    data: str
    format: str


class _Part(_Strict):
    """A part of a message; its ``type`` is the name of the field that it has."""

    type: Literal["text", "video_url", "audio_url", "depth_url", "ego_url", "input_audio", "sample"]
    text: _Text = ""
    video_url: _Url | None = None
    audio_url: _Url | None = None
    depth_url: _Url | None = None
    ego_url: _Url | None = None
    input_audio: _Sound | None = None
    sample: str = ""

    @model_validator(mode="after")
    def _check_field(self) -> Self:
        if self.model_fields_set != {"type", self.type} or getattr(self, self.type) is None:
            raise ValueError(f"a part of this type has the field {self.type!r}, and no other")
        return self


class _Message(_Strict):
    role: Literal["user", "assistant"]
    content: Annotated[list[_Part], Field(max_length=16)]

    @field_validator("content", mode="before")
    @classmethod
    def _as_parts(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content


class ChatRequest(_Strict):
    """Questions about one clip; ``without`` names streams that the model does not read."""

    model: str
    messages: Annotated[list[_Message], Field(min_length=1, max_length=64)]
    without: list[str] = []
    stream: bool = False
    logprobs: bool = False
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    temperature: Literal[0] | None = None
    n: Literal[1] | None = None


class Clip(NamedTuple):
    """A clip as a request names it."""

    urls: dict[str, str]  # kind → data URL, or the id of an uploaded file
    sample: str | None


def parse(content: bytes) -> ChatRequest:
    """Parse the body of a request; raises HTTPException if it cannot be followed."""
    try:
        found = TypeAdapter(dict[str, Any]).validate_json(content)
        return ChatRequest.model_validate({k: v for k, v in found.items() if k not in _IGNORED})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        reason = first["msg"].removeprefix("Value error, ")
        if where == "temperature":
            reason = "answers are the most likely ones; leave it out, or give 0"
        raise refused(400, f"{where}: {reason}") from None


def clip_of(request: ChatRequest) -> Clip:
    """The clip of a request; raises HTTPException if its first message does not name one."""
    first, *later = request.messages
    if any(part.type != "text" for message in later for part in message.content):
        raise refused(400, "put the clip into the first message; a conversation is about one clip")
    samples = [part.sample for part in first.content if part.type == "sample"]
    urls: dict[str, str] = {}
    for part in first.content:
        kind, _, form = part.type.partition("_")
        if part.input_audio is not None:
            kind = "audio"
            url = f"data:audio/{part.input_audio.format};base64,{part.input_audio.data}"
        elif form == "url":
            url = getattr(part, part.type).url
        else:
            continue
        if kind in urls:
            raise refused(400, f"there are two {kind} parts; a clip has one of each kind")
        urls[kind] = url
    if len(samples) + bool(urls) != 1:
        raise refused(400, _MIXED)
    return Clip(urls, samples[0] if samples else None)


def question_of(request: ChatRequest) -> Question:
    """The question of a request, with its dialogue; raises HTTPException."""
    messages = request.messages
    if [message.role for message in messages] != (["user", "assistant"] * 32)[: len(messages)]:
        raise refused(400, "messages must alternate: user, assistant, …, user")
    texts = [
        "\n".join(part.text for part in message.content if part.type == "text").strip()
        for message in messages
    ]
    if not all(texts):
        raise refused(400, "a message has no text; ask a question")
    if not len(texts) % 2:
        raise refused(400, "the last message is the assistant's; end with a question")
    return Question("asked", texts[-1], (), tuple(zip(texts[:-1:2], texts[1::2], strict=True)))


def decoded(url: str) -> BytesIO:
    """The content of a data URL; nothing else is ever opened.

    Raises:
        HTTPException: it is another URL or a path, or is not base64.
    """
    head, comma, content = url.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        raise refused(
            400,
            f"{url!r:.60} is neither a base64 data URL nor the id of an uploaded file; nothing is "
            "fetched. Upload the file to /v1/files",
        )
    try:
        return BytesIO(b64decode(content, validate=True))
    except (binascii.Error, ValueError):
        raise refused(400, f"the data URL {head!r:.60} is not valid base64") from None
