"""What a child process calls an error that is none of the job's own."""

import errno
import os
from pathlib import Path

import pytest

from job.child import as_job_error
from job.errors import Bug, UnsuitableHost
from job.rundir import mount_of


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG], ids=errno.errorcode.get)
def test_a_place_that_is_too_small_is_no_bug(number: int, tmp_path: Path):
    error = as_job_error(OSError(number, os.strerror(number), str(tmp_path / "file")))

    assert type(error) is UnsuitableHost
    assert str(tmp_path / "file") in error.cause


def test_a_full_disk_is_named_by_its_mount_where_the_error_names_no_file(tmp_path: Path):
    error = as_job_error(OSError(errno.ENOSPC, "No space left on device"), tmp_path / "errors" / "rank0.json")

    assert error.cause == f"No space is left for JOB_WORK_DIR on {mount_of(tmp_path)}."


def test_an_error_that_says_nothing_of_the_host_is_a_bug():
    assert type(as_job_error(OSError(errno.EISDIR, "Is a directory"))) is Bug
