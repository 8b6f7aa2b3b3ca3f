"""The container's entry point, and the only reader of the process's environment and arguments."""

import contextlib
import os
import sys

from job.cli import main
from job.signals import hide_environment

if __name__ == "__main__":
    hide_environment()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started the job, who wants to hear nothing
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        getattr(sys, name).reconfigure(encoding="utf-8", errors="backslashreplace")  # JSON is, whatever the locale
    code = main(sys.argv[1:], os.environ)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # what cannot be written changes no exit code
            stream.flush()
    # Not through the interpreter's teardown: it would first carry out what an interrupted download has in its queue.
    os._exit(code)
