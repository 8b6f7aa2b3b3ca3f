"""The container's entry point, and the only reader of the process's environment and arguments."""

import os
import sys

from job.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
