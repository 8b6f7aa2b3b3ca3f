"""Every fault that is tried, with how many processes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tests.chaos import kills, machines, ranks, rivals, signals, stores, training
from tests.chaos.world import World

KILLS_BY_LOT = 38
AIMED_KILLS = {
    "in a save": kills.in_a_save,
    "in the upload of a checkpoint": kills.in_the_upload_of_a_checkpoint,
    "in the upload of the result": kills.in_the_upload_of_the_result,
}  # twice each, with both numbers of processes: 50 in all
BOTH = (1, 2)


@dataclass(frozen=True)
class Fault:
    """*act* tries it and says what happened, or raises AssertionError; *quick* ones make up the subset for CI."""

    name: str
    act: Callable[[World], str]
    processes: tuple[int, ...] = BOTH
    quick: tuple[int, ...] = ()  # process counts with which it is in the subset


def faults() -> Iterator[Fault]:
    yield from _kills()
    yield from _signals()
    yield from _ranks()
    yield from _stores()
    yield from _machines()
    yield from _training()


def _kills() -> Iterator[Fault]:
    by_lot = partial(kills.killed_once, aimed=kills.by_lot)
    for number in range(KILLS_BY_LOT):
        # Two thirds with one process, which take half as long.
        yield Fault(f"kill -9, moment {number + 1}", by_lot, (1,) if number % 3 else (2,))
    for place, aimed in AIMED_KILLS.items():
        for number in range(2):
            quick = (1,) if number == 0 and aimed is kills.in_the_upload_of_a_checkpoint else ()
            yield Fault(f"kill -9 {place}, {number + 1}", partial(kills.killed_once, aimed=aimed), quick=quick)
    yield Fault("kill -9 of the supervisor alone", kills.supervisor_alone)
    yield Fault("kill -9 in every attempt", kills.killed_in_every_attempt)
    yield Fault("crash loop", kills.crashing_in_every_attempt)
    yield Fault("crashes with progress between them", kills.progress_between_crashes)


def _signals() -> Iterator[Fault]:
    for grace_s in ("120", "30", "5", "0"):
        quick = (2,) if grace_s == "5" else ()
        yield Fault(f"SIGTERM with {grace_s} s of grace", partial(signals.with_grace, grace_s=grace_s), quick=quick)
    for phase in ("download", "prepare", "train", "eval", "save", "judge", "upload"):
        quick = (1,) if phase == "eval" else ()
        yield Fault(f"SIGTERM in {phase}", partial(signals.in_phase, phase=phase), quick=quick)
    yield Fault("a second and a third signal", signals.second_signal)
    yield Fault("one of two ranks signalled", signals.one_rank)


def _ranks() -> Iterator[Fault]:
    yield Fault("SIGSTOP of one rank", ranks.stopped)
    yield Fault("a rank that never comes back", ranks.never_comes_back)
    yield Fault("a worker that ignores the stop file", ranks.ignores_the_stop_file)
    for name, code in (("SEGV", 81), ("ABRT", 81), ("BUS", 80), ("KILL", 81)):
        yield Fault(f"SIG{name} of one rank", partial(ranks.crashes, number=name, expected=code))


def _stores() -> Iterator[Fault]:
    for damage in ("truncated", "bit-flipped", "no manifest"):
        quick = (1,) if damage == "bit-flipped" else ()
        yield Fault(f"newest checkpoint: {damage}", partial(stores.newest_checkpoint_is, damage=damage), quick=quick)
    yield Fault("30 % of requests fail", stores.some_requests_fail)
    yield Fault("100 % of requests fail", stores.all_requests_fail)
    yield Fault("the store dies at the final upload", stores.dies_at_the_final_upload)
    yield Fault("the store is gone after the last step", stores.is_gone_after_training)
    yield Fault("403 after step 3", stores.forbids_after_a_while, quick=(1,))
    yield Fault("a store of 1 MB/s", stores.slow_while_training, (1,))
    yield Fault("another spec at the same output", stores.another_spec_at_the_output)


def _machines() -> Iterator[Fault]:
    yield Fault("a full disk", machines.full_disk)
    yield Fault("a clock 20 minutes off", machines.wrong_clock, (1,))
    yield Fault("deadline in training", machines.deadline_in_training)
    yield Fault("deadline in an evaluation", machines.deadline_in_evaluation)
    yield Fault("deadline in a save", machines.deadline_in_a_save)
    yield Fault("deadline while judged", machines.deadline_while_judged)
    yield Fault("deadline in the final upload", machines.deadline_in_the_final_upload)
    yield Fault("deadline between slow steps", machines.deadline_between_slow_steps, (1,))
    yield Fault("deadline before training", machines.deadline_before_training)
    yield Fault("budget in training", machines.budget)
    yield Fault("another number of processes", machines.other_number_of_processes)
    for count in (2, 10):
        quick = (1,) if count == 2 else ()
        yield Fault(f"{count} jobs at once", partial(rivals.at_once, count=count), (1,), quick=quick)


def _training() -> Iterator[Fault]:
    yield Fault("NaN at step 8", training.loss_is_nan)
    yield Fault("a loss that spikes and stays", training.loss_spikes, (1,))
    yield Fault("no gradient", training.no_gradient)
    yield Fault("a frozen adapter", training.frozen_adapter)
