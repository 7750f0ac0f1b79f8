"""The one error that users see as a line of text, and a line of text of any other."""


class StudyError(Exception):
    """The user can mend this. The message is one line: what is wrong, where, and how to mend it."""


def first_line(error: Exception) -> str:
    """Return the first line that says something in another library's error, or the error's kind."""
    return next((line for line in map(str.strip, str(error).splitlines()) if line), type(error).__name__)
