"""The exception that a user is meant to read, and that of a training that was told to stop."""

import signal

EXIT_RESUME = 75  # EX_TEMPFAIL of sysexits.h: the same command again goes on from here
STATUS = {signal.SIGUSR1: EXIT_RESUME, signal.SIGTERM: 143, signal.SIGINT: 130}


class UserError(Exception):
    """A mistake or a condition that the user can mend.

    The message names the file, line or option, says what was found and what was
    expected, and ends with what to do next. Command lines print it to stderr without a
    traceback and exit with status 1 (see ``ser.console.run``).
    """


class Stopped(BaseException):
    """The training has stopped as it was asked to; not an error, and not to be handled as one."""

    def __init__(self, signum: signal.Signals):
        super().__init__(f"stopped by {signum.name}; the same command again goes on from here")
        self.status = STATUS[signum]
