"""Work for processes that tests start; it imports little, so that they start soon."""

import os
import signal
import time

from blindspots_lib.core.errors import StudyError


def work(items, report):
    """What a process is told to do with its items, which are the same in all."""
    for item in items:
        if item == "fail":
            raise StudyError("mend this")
        if item == "break":
            raise ZeroDivisionError("by nothing")
        if item == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if item == "wait":
            time.sleep(600)
        report((os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid(), item))
