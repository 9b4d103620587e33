"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A mistake or a condition that the user can mend.

    The message names the file, line or option, says what was found and what was
    expected, and ends with what to do next. Command lines print it to stderr without a
    traceback and exit with status 1 (see ``ser.cli.run``).
    """
