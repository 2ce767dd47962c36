"""The page: frames as the model sees them, two answers side by side, and where the LLM looks."""

import asyncio
from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from PIL import Image
from torch import Tensor

from vlynx_pl.analysis.attention_figure import MapRow, draw_attention
from vlynx_pl.analysis.attention_maps import NEUTRAL, TEXTS, question_attention, relative
from vlynx_pl.questions import Question
from vlynx_pl.serving.requests import parse, question_of
from vlynx_pl.serving.service import Service
from vlynx_pl.serving.sessions import ClipFrames, Said, ServedRun, Session

_FILES: Final = Path(__file__).parent / "page"
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_LAYERS: Final = (1, 2)
"""The LLM's layers that are drawn, as in the paper's Figure 4."""


def add_page(app: FastAPI, service: Service) -> None:
    """Serve the page, and what it asks for."""
    for path, name in (("/", "index.html"), ("/page.js", "page.js"), ("/page.css", "page.css")):
        app.add_api_route(path, _file(name), include_in_schema=False, response_class=FileResponse)

    @app.get("/page/models")
    async def models() -> list[dict[str, Any]]:
        return [_description(run) for run in service.runs.values()]

    @app.post("/page/clip")
    async def clip(request: Request) -> dict[str, Any]:
        session = await service.session(await asyncio.to_thread(parse, await request.body()))
        return await asyncio.to_thread(_shown, session.frames)

    @app.post("/page/ask")
    async def ask(request: Request) -> dict[str, Any]:
        asked = await asyncio.to_thread(parse, await request.body())
        question, without = question_of(asked), frozenset(asked.without)
        session = await service.session(asked)
        return await service.do(session, lambda: _compared(session, question, without))

    @app.post("/page/attention")
    async def attention(request: Request) -> Response:
        asked = await asyncio.to_thread(parse, await request.body())
        question, session = question_of(asked), await service.session(asked)
        drawn = await service.do(session, lambda: _attention(session, question))
        return Response(drawn, media_type="image/png")


def _file(name: str) -> Any:
    async def send() -> FileResponse:
        return FileResponse(_FILES / name, headers=_HEADERS)

    return send


def _description(run: ServedRun) -> dict[str, Any]:
    streams = run.module.streams
    samples = {
        name: [{"question": one.prompt, "answers": one.answers} for one in sample.questions]
        for name, sample in run.samples.items()
    }
    return {
        "name": run.name,
        "streams": {name: streams.can_leave_out(name) for name in streams.sources},
        "samples": samples,
    }


def _shown(frames: ClipFrames) -> dict[str, Any]:
    """Stream → timestamps, and the images of each, which may be several."""
    streams = {}
    for name, pixels in frames.streams.items():
        times = frames.times[name]
        each = [_png(one) for one in pixels]
        count = len(each) // len(times)
        images = [each[i * count : (i + 1) * count] for i in range(len(times))]
        streams[name] = [{"time": t, "images": i} for t, i in zip(times, images, strict=True)]
    return {"streams": streams, "doubts": frames.doubts}


def _png(pixels: Tensor) -> str:
    """A frame (3, H, W) as a data URL."""
    file = BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG")
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def _compared(session: Session, question: Question, without: frozenset[str]) -> dict[str, Any]:
    """The answer with every stream, and without some, and what these do for the first answer."""
    longest = session.run.module.max_new_tokens
    first = [*session.answer(question, frozenset(), longest)]
    second = [*session.answer(question, without, longest)]
    without_them = session.logprob(question, without, [one.token.id for one in first])
    return {
        "answers": [_answer(first), _answer(second)],
        "first_without": without_them,
        "gain": _answer(first)["logprob"] - without_them,
    }


def _answer(said: list[Said]) -> dict[str, Any]:
    return {"text": said[-1].text, "logprob": sum(one.token.logprob for one in said)}


def _attention(session: Session, question: Question) -> bytes:
    """A picture of where the LLM looks, PNG; see :mod:`vlynx_pl.analysis.attention_maps`."""
    module, tokens = session.run.module, session.tokens()
    names = module.streams.names[: len(tokens)]
    found, neutral = question_attention(
        module.backbone, tokens, [question, NEUTRAL], _LAYERS, ["words", "words"], module.task
    )
    pairs = zip(names, found.maps, neutral.maps, strict=True)
    maps = {name: relative(*pair).cpu() for name, *pair in pairs}
    rows = [
        MapRow(
            f"layer {layer}",
            dict(zip((*names, *TEXTS), found.shares[place].tolist(), strict=True)),
            {name: each[place] for name, each in maps.items()},
        )
        for place, layer in enumerate(_LAYERS)
    ]
    frames = session.frames
    streams = {
        name: (pixels[:: len(pixels) // len(frames.times[name])], frames.times[name])
        for name, pixels in frames.streams.items()
    }
    title = [question.prompt, "attention of the question's words, divided by a neutral question's"]
    file = BytesIO()
    figure = draw_attention(title, streams, rows, module.backbone.token_grid)
    figure.savefig(file, dpi=120, format="png")
    return file.getvalue()
