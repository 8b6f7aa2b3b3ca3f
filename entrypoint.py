"""The container's entry point, and the only reader of the process's environment and arguments."""

import contextlib
import os
import sys
from pathlib import Path

from job.cli import main

if __name__ == "__main__":
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115 (for as long as the process)
    # A stream that was closed before is None, and what is printed for it would go to the other one.
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    code = main(sys.argv[1:], os.environ)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    # Not through the interpreter's teardown: it would first carry out what an interrupted download has in its queue.
    os._exit(code)
