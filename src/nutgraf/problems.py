"""Errors that a person reads: one line with the fact, the value and the knob.

The command line prints the message without a traceback and exits with `exit_code`.
"""


class UserError(Exception):
    """A mistake in what the user gave: a setting, a file, a column."""

    exit_code = 2


class Failure(Exception):
    """Something that should have worked and did not: a full disk, a device, a trial."""

    exit_code = 1
