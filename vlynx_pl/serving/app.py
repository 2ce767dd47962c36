"""The server: OpenAI's endpoints, with the page's beside them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteError

from vlynx_pl.io.errors import UserError
from vlynx_pl.serving.errors import error_response, refused
from vlynx_pl.serving.gate import Gate
from vlynx_pl.serving.limits import Limits
from vlynx_pl.serving.pages import add_page
from vlynx_pl.serving.requests import ChatRequest, parse, question_of
from vlynx_pl.serving.service import Service
from vlynx_pl.serving.sessions import Said, ServedRun
from vlynx_pl.serving.uploads import Upload


def make_app(runs: Sequence[ServedRun], limits: Limits, token: str | None = None) -> FastAPI:
    """Make the server.

    Args:
        runs: that answer.
        limits: of what it accepts.
        token: that clients must send; None is for loopback only.
    """
    service = Service(runs, limits)

    @asynccontextmanager
    async def closing(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    # FastAPI's own pages would load their scripts from another server.
    app = FastAPI(title="V-LynX", docs_url=None, redoc_url=None, openapi_url=None, lifespan=closing)
    app.state.service = service
    app.add_middleware(Gate, limits=limits, token=token)

    @app.exception_handler(UserError)
    async def bad_input(request: Request, error: UserError) -> Response:
        return error_response(refused(400, str(error)))

    @app.exception_handler(StarletteError)
    async def refusal(request: Request, error: HTTPException) -> Response:
        return error_response(error)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        return error_response(refused(500, "the server failed; its own output says why"))

    _add_openai(app, service)
    add_page(app, service)
    return app


def _add_openai(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        common = {"object": "model", "created": 0, "owned_by": "vlynx"}
        return {"object": "list", "data": [{"id": name, **common} for name in service.runs]}

    @app.post("/v1/files")
    async def upload(request: Request) -> dict[str, Any]:
        async with request.form(max_files=1, max_fields=4) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise refused(400, "the form has no file; send it as the field file")
            store, name = service.uploads.store, file.filename or "file"
            return _described(await asyncio.to_thread(store, file.file, name))

    @app.get("/v1/files/{name}")
    async def about(name: str) -> dict[str, Any]:
        return _described(service.uploads.get(name))

    @app.delete("/v1/files/{name}")
    async def remove(name: str) -> dict[str, Any]:
        service.forget(name)
        return {"id": name, "object": "file", "deleted": True}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await asyncio.to_thread(parse, await request.body())
        question, without = question_of(asked), frozenset(asked.without)
        session = await service.session(asked)
        module = session.run.module
        longest = asked.max_completion_tokens or asked.max_tokens or module.max_new_tokens
        said = service.stream(session, lambda: session.answer(question, without, longest))
        if asked.stream:
            first = await anext(said)  # an error becomes a status, which must come before all else
            return StreamingResponse(
                _events(asked, first, said, longest), media_type="text/event-stream"
            )
        async with aclosing(said):
            words = [one async for one in said]
        before = await service.do(session, lambda: session.prompt_tokens(question, without))
        message = {"role": "assistant", "content": words[-1].text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": _reason(len(words), longest)}
        choice["logprobs"] = _logprobs(words) if asked.logprobs else None
        counts = {"prompt_tokens": before, "completion_tokens": len(words)}
        usage = counts | {"total_tokens": sum(counts.values())}
        head = _head(asked, "chat.completion")
        return JSONResponse(head | {"choices": [choice], "usage": usage})


def _described(upload: Upload) -> dict[str, Any]:
    about = {"id": upload.id, "bytes": upload.bytes, "filename": upload.name}
    return about | {"object": "file", "created_at": upload.created, "purpose": "user_data"}


def _head(asked: ChatRequest, kind: str) -> dict[str, Any]:
    name = f"chatcmpl-{uuid4().hex}"
    return {"id": name, "object": kind, "created": int(time.time()), "model": asked.model}


def _reason(tokens: int, longest: int) -> str:
    return "length" if tokens == longest else "stop"


def _logprobs(words: Sequence[Said]) -> dict[str, Any]:
    return {
        "content": [
            {"token": one.word, "logprob": one.token.logprob, "bytes": None, "top_logprobs": []}
            for one in words
        ]
    }


async def _events(
    asked: ChatRequest, first: Said, rest: AsyncIterator[Said], longest: int
) -> AsyncIterator[str]:
    """The answer as server-sent events, a chunk for each token that completes a character."""
    head, shown, count = _head(asked, "chat.completion.chunk"), "", 0

    def event(delta: dict[str, str], words: Sequence[Said] = (), reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        choice["logprobs"] = _logprobs(words) if asked.logprobs and words else None
        return f"data: {json.dumps(head | {'choices': [choice]})}\n\n"

    yield event({"role": "assistant", "content": ""})
    said: Said | None = first
    text = ""
    while said is not None:
        count, text = count + 1, said.text
        complete = text.rstrip("\ufffd")  # a character may take several tokens
        yield event({"content": complete[len(shown) :]}, [said])
        shown = max(shown, complete, key=len)
        said = await anext(rest, None)
    yield event({"content": text[len(shown) :]}, (), _reason(count, longest))
    yield "data: [DONE]\n\n"
