"""What a request must pass before the server works on it: who sends it, how much, and how long."""

import asyncio
import hmac
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlynx_pl.serving.errors import error_response, refused
from vlynx_pl.serving.limits import MIB, Limits
from vlynx_pl.serving.loopback import is_loopback

_OPEN: Final = ("/", "/page.js", "/page.css", "/favicon.ico")
"""What is sent without a token; it is the same for everybody."""
_READ_AWAY: Final = 4  # times the limit that is read of a body that is refused
_READ_AWAY_TIME: Final = 10  # s that it may take


class Gate:
    """Lets a request in, or answers it with a clear error.

    Args:
        app: behind it.
        limits: of the server.
        token: that clients must send; None on loopback, where no page of another site may ask.
    """

    def __init__(self, app: ASGIApp, limits: Limits, token: str | None) -> None:
        self._app, self._limits, self._token = app, limits, token
        self._busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        most = self._limits.upload + MIB if scope["path"] == "/v1/files" else self._limits.body
        body = _Body(receive, most)
        try:
            self._check_sender(request)
            body.check(request.headers.get("content-length", "0"))
            if request.method != "POST":
                await self._app(scope, receive, send)
                return
            if self._busy >= self._limits.queue:
                raise refused(429, f"{self._busy} requests are under way; try again in a second")
        except HTTPException as error:
            await body.read_away()
            await error_response(error)(scope, receive, send)
            return
        self._busy += 1
        try:
            await self._in_time(scope, body, send)
        finally:
            self._busy -= 1

    def _check_sender(self, request: Request) -> None:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise refused(403, f"pages of {origin:.80} are not answered; open this server's own")
        if self._token is None:
            if not is_loopback(_name(host)):
                raise refused(403, f"{host:.80} is not a name of this server; use 127.0.0.1")
        elif request.scope["path"] not in _OPEN:
            sent = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(sent.encode(), self._token.encode()):
                raise refused(401, "send the token of this server as Authorization: Bearer TOKEN")

    async def _in_time(self, scope: Scope, body: "_Body", send: Send) -> None:
        begun = False

        async def tracked(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(self._limits.timeout):
                await self._app(scope, body, tracked)
        except TimeoutError:
            if not begun:
                message = f"no answer within {self._limits.timeout:g} s; ask about a shorter clip"
                await error_response(refused(504, message))(scope, body, send)
        except ClientDisconnect:
            pass


def _name(host: str) -> str:
    """The name in a Host header, without its port; empty if it is not one."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class _Body:
    """Receives the body of a request, up to a number of bytes."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most, self._got, self._more = receive, most, 0, True

    def check(self, length: str) -> None:
        """Refuse a length that a header states."""
        if not length.isdecimal() or int(length) > self._most:
            self._refuse()

    async def __call__(self) -> Message:
        message = await self._next()
        if self._got > self._most:
            await self.read_away()
            self._refuse()
        return message

    async def read_away(self) -> None:
        """Receive what is left, so that the client reads its answer instead of a broken pipe."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_READ_AWAY_TIME):
                while self._more and self._got < _READ_AWAY * self._most:
                    await self._next()

    async def _next(self) -> Message:
        message = await self._receive()
        self._got += len(message.get("body", b""))
        self._more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    def _refuse(self) -> None:
        raise refused(413, f"the request is larger than {self._most / MIB:.0f} MiB; send less")
