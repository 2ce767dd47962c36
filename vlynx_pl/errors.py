"""The one kind of error that the command line shows as a message instead of a traceback."""


class UserError(ValueError):
    """Something that whoever runs a command can mend; the message says how."""
