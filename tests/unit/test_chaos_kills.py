"""The moments at which `tests.chaos` kills: how many, and whether a seed repeats them."""

from pathlib import Path

import pytest

from tests.chaos.kills import by_lot, in_a_save
from tests.chaos.table import faults
from tests.chaos.world import Stage, World
from tests.servers.s3_server import S3Server

NAMES = [f"moment-{number}" for number in range(38)]


def moments(s3_server: S3Server, folder: Path, seed: int) -> list[str]:
    stage = Stage(folder, s3_server, seed)
    return [aimed(World(stage, 1, name)).text for aimed in (by_lot, in_a_save) for name in NAMES]


def test_a_seed_draws_the_same_moments_on_every_machine(s3_server, tmp_path):
    here = moments(s3_server, tmp_path / "here", seed=20)

    assert here == moments(s3_server, tmp_path / "there", seed=20)
    assert here != moments(s3_server, tmp_path / "here", seed=21)


@pytest.mark.parametrize("part", ["after the start", "of a step", "after the last step"])
def test_kills_by_lot_fall_into_every_part_of_a_run(s3_server, tmp_path, part):
    assert sum(part in moment for moment in moments(s3_server, tmp_path, seed=20)) >= 3


def test_fifty_runs_are_killed_twelve_of_them_in_a_save_or_an_upload():
    kills = [(fault.name, n) for fault in faults() for n in fault.processes if fault.name.startswith("kill -9")]
    aimed = [(name, n) for name, n in kills if name.startswith("kill -9 in ") and name[-1].isdigit()]
    by_moment = [(name, n) for name, n in kills if name.startswith("kill -9, moment")]

    assert (len(by_moment) + len(aimed), len(aimed)) == (50, 12)
    assert sum(n == 2 for _, n in aimed) == 6
