"""Training that is of no use any more is stopped, and noisy training is left alone."""

import json
import math
import random
from collections.abc import Iterable

import pytest

from job.errors import Diverged
from job.train.health import AT_THE_END, LEARN, PATIENCE, SKIPPED, Health


def watch(losses: Iterable[float], health: Health | None = None, first: int = 1) -> Health:
    health = health or Health()
    for step, loss in enumerate(losses, start=first):
        health.loss(step, loss, 2e-4)
    return health


def noise(sigma: float, steps: int, seed: int) -> list[float]:
    drawn = random.Random(seed)
    return [drawn.gauss(0, sigma) for _ in range(steps)]


def falling(steps: int, top: float = 2.5, end: float = 0.9) -> list[float]:
    return [end + (top - end) * math.exp(-step / 80) for step in range(steps)]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_ends_training_at_once(loss):
    with pytest.raises(Diverged, match=r"at step 4, with learning rate 2\.00e-04"):
        watch([2.0, 1.9, 1.8, loss])


@pytest.mark.parametrize("seed", range(20))
def test_a_loss_that_leaves_its_band_for_good_ends_training_with_the_evidence(seed):
    losses = [base + noisy for base, noisy in zip(falling(200), noise(0.15, 200, seed), strict=True)]
    blown = [min(11.0, losses[-1] + 0.6 * step) for step in range(5, 60)]

    with pytest.raises(Diverged, match=r"loss is .* at step \d+, the last of 20 in a row above .*median .* ordinary"):
        watch(losses + blown)


def test_a_spike_that_ends_in_time_is_no_divergence():
    calm = [1.0] * 50

    assert not watch(calm + [9.0] * (PATIENCE - 1) + calm).uneasy
    with pytest.raises(Diverged):
        watch(calm + [9.0] * PATIENCE)


def test_from_the_first_step_outside_the_band_until_the_first_inside_training_is_uneasy():
    health = watch([1.0] * 50)
    assert not health.uneasy

    health.loss(51, 9.0, 2e-4)
    assert health.uneasy

    health.loss(52, 1.1, 2e-4)
    assert not health.uneasy


def test_steps_outside_the_band_do_not_move_it():
    with pytest.raises(Diverged, match="at step 69"):
        watch([1.0] * 49 + [9.0 + step for step in range(100)])


def resumed(health: Health) -> Health:
    """From what a checkpoint holds."""
    after = Health()
    after.recall(json.loads(json.dumps(health.state())))
    return after


def test_a_resumed_run_takes_no_diverged_loss_for_the_ordinary():
    health = resumed(watch([1.0] * LEARN))

    health.loss(LEARN + 1, 9.0, 2e-4)

    assert health.uneasy


@pytest.mark.parametrize("saved_at", [5, 30, 150])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(saved_at):
    losses = add(falling(200), noise(0.15, 200, seed=1)) + [9.0] * PATIENCE
    with pytest.raises(Diverged) as expected:
        watch(losses)
    health = resumed(watch(losses[:saved_at]))

    with pytest.raises(Diverged) as caught:
        watch(losses[saved_at:], health, first=saved_at + 1)

    assert caught.value.cause == expected.value.cause


def test_the_end_does_not_wait_for_a_divergence_to_last():
    watch([1.0] * 50 + [9.0] * (AT_THE_END - 1)).end()
    watch([1.0] * 50 + [9.0] * AT_THE_END + [1.0]).end()

    with pytest.raises(Diverged, match=r"loss is 9 at step 53, the last of 3 in a row above 1\.5, .* 50 ordinary"):
        watch([1.0] * 50 + [9.0] * AT_THE_END).end()


# Curves as they are seen in practice, each with its noise.
ORDINARY = {
    "a smooth fall": lambda seed: falling(600),
    "the noise of small batches": lambda seed: add(falling(600), noise(0.35, 600, seed)),
    "a loss that grows with its noise": lambda seed: [1.2 * math.exp(each) for each in noise(0.5, 600, seed)],
    "preferences, from ln 2 to near zero": lambda seed: [
        0.69 * math.exp(-step / 40) * math.exp(each) for step, each in enumerate(noise(1.0, 600, seed))
    ],
    "a rise at the end of warm-up": lambda seed: add(
        [2.0] * 60 + [2.0 + 0.02 * step for step in range(40)] + [2.8 - 0.004 * step for step in range(400)],
        noise(0.2, 500, seed),
    ),
    "rows from the easy to the hard": lambda seed: add(
        [0.5 + 0.005 * step for step in range(600)], noise(0.1, 600, seed)
    ),
    "a fall at every epoch": lambda seed: add([1.6] * 150 + [1.1] * 150 + [0.7] * 150, noise(0.1, 450, seed)),
    "a random base": lambda seed: [11.0 - 9.0 * (1 - math.exp(-step / 30)) for step in range(400)],
}  # fmt: skip


def add(base: list[float], noisy: list[float]) -> list[float]:
    return [a + b for a, b in zip(base, noisy, strict=True)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("curve", ORDINARY)
def test_ordinary_curves_are_left_alone(curve, seed):
    health = watch(ORDINARY[curve](seed))

    health.end()
    assert health.state()["ordinary"], "none of it was taken for ordinary"


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_ends_training_unless_the_step_was_left_out(norm):
    health = Health()
    health.grad_norm(3, norm, 1e-4, skipped=True)

    with pytest.raises(Diverged, match=r"grad_norm is (nan|inf) at step 4, with learning rate 1\.00e-04"):
        health.grad_norm(4, norm, 1e-4, skipped=False)


def test_gradients_that_are_zero_from_the_beginning_end_training():
    health = Health()
    health.grad_norm(1, 0.0, 1e-4, skipped=False)
    health.grad_norm(2, 0.0, 1e-4, skipped=False)

    with pytest.raises(Diverged, match="0 in each of the first 3 steps"):
        health.grad_norm(3, 0.0, 1e-4, skipped=False)


def test_gradients_that_are_zero_before_and_after_a_resume_end_training_too():
    health = Health()
    health.grad_norm(1, 0.0, 1e-4, skipped=False)
    health.grad_norm(2, 0.0, 1e-4, skipped=False)

    with pytest.raises(Diverged, match="0 in each of the first 3 steps"):
        resumed(health).grad_norm(3, 0.0, 1e-4, skipped=False)


def test_a_gradient_that_is_zero_now_and_then_is_no_reason_to_stop():
    health = Health()
    for step, norm in enumerate([0.0, 0.3, 0.0, 0.0, 0.0, 0.0], start=1):
        health.grad_norm(step, norm, 1e-4, skipped=False)

    assert not health.uneasy


@pytest.mark.parametrize("at", [2, 5, 8, 15])
@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_explodes_before_there_is_a_band_ends_training(at, seed):
    losses = add([2.0] * (at - 1) + [11.0] * (200 - at), noise(0.2, 199, seed))

    with pytest.raises(Diverged, match=r"has risen from|in a row above") as caught:
        watch(losses)

    assert "learning rate 2.00e-04" in caught.value.cause


def test_a_short_training_that_explodes_says_so_at_its_end():
    health = watch([2.0, 2.1] + [11.0] * 6)

    with pytest.raises(Diverged, match=r"risen from 2 to 11 within 8 steps, until step 8"):
        health.end()


def test_of_a_handful_of_steps_nothing_is_concluded():
    health = watch([2.0] + [11.0] * 4)

    assert health.end() is None


def test_steps_that_fp16_leaves_out_for_ever_end_training():
    health = Health()
    for step in range(1, SKIPPED):
        health.step(step, skipped=True)
    health.step(SKIPPED, skipped=False)
    for step in range(1, SKIPPED):
        health.step(SKIPPED + step, skipped=True)

    with pytest.raises(Diverged, match=f"{SKIPPED} steps in a row, until step {2 * SKIPPED}, overflow fp16"):
        health.step(2 * SKIPPED, skipped=True)
