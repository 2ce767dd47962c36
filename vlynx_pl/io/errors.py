"""The one kind of error that the command line shows as a message instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PARSE_ERRORS: Final = (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError)
"""What reading a file raises, beside its library's own errors, that holds anything at all."""


class UserError(ValueError):
    """Something that whoever runs a command can mend; the message says how."""


def root_cause(error: BaseException) -> BaseException:
    """What was raised first, of errors that were raised because of each other."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


@contextmanager
def unwrap_user_error() -> Iterator[None]:
    """Raise a UserError itself where a parser has wrapped it into an error of its own."""
    try:
        yield
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__ or cause.__context__
        if cause is None or cause is error:
            raise
        raise cause from None
