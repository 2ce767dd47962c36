"""The errors that the server answers with, in OpenAI's format."""

from fastapi import HTTPException
from fastapi.responses import JSONResponse


def refused(status: int, message: str) -> HTTPException:
    """An error for the client; one that is only too early says when to try again."""
    return HTTPException(status, message, {"Retry-After": "1"} if status == 429 else None)


def error_response(error: HTTPException) -> JSONResponse:
    """The response for an error."""
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    content = {"message": error.detail, "type": kind, "param": None, "code": error.status_code}
    return JSONResponse({"error": content}, error.status_code, error.headers)
