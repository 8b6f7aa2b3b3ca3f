"""The container's entry point, and the only reader of the process's environment and arguments."""

import os
import sys

from job.cli import main

if __name__ == "__main__":
    code = main(sys.argv[1:], os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not through the interpreter's teardown: it would first carry out what an interrupted download has in its queue.
    os._exit(code)
