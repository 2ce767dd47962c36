"""The one kind of error that the command line shows as a message instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PARSE_ERRORS: Final = (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError)
"""What reading a file of arbitrary content raises, besides its library's own errors."""


class UserError(ValueError):
    """An error that the user can fix; the message says how."""


def root_cause(error: BaseException) -> BaseException:
    """Return the first error of a chain."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


@contextmanager
def unwrap_user_error() -> Iterator[None]:
    """Raise the UserError that a parser has wrapped into an error of its own."""
    try:
        yield
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__ or cause.__context__
        if cause is None or cause is error:
            raise
        raise cause from None
