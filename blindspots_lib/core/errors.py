"""The one kind of error that users see as a line of text."""


class StudyError(Exception):
    """Something the user can mend. Its message is one line: what is wrong, where, and how to mend it."""
