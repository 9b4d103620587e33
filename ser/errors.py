"""Exceptions for user errors, and for training stopped by a signal."""

import signal

EXIT_RESUME = 75  # EX_TEMPFAIL of sysexits.h: run the same command to resume
STATUS = {signal.SIGUSR1: EXIT_RESUME, signal.SIGTERM: 143, signal.SIGINT: 130}


class UserError(Exception):
    """An error that the user can fix.

    The message names the file, line or option, says what was found and what was
    expected, and ends with what to do next. Commands print it to stderr without a
    traceback and exit with status 1 (see ``ser.console.run``).
    """


class Stopped(BaseException):
    """Training was stopped by a signal, after writing a checkpoint; not an error."""

    def __init__(self, signum: signal.Signals):
        super().__init__(f"stopped by {signum.name}; run the same command to resume")
        self.status = STATUS[signum]
