"""The one error that users see as a line of text."""


class StudyError(Exception):
    """The user can mend this. The message is one line: what is wrong, where, and how to mend it."""
