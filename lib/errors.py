"""The one exception for mistakes that a user can put right."""


class WorkbookError(ValueError):
    """Input that cannot be used: the message names it, says what was found and what to do.

    The command line prints it in one line, without a traceback.
    """
