"""Training that goes wrong by itself."""

from tests.chaos.world import World


def loss_is_nan(world: World) -> str:
    """NaN on one rank at step 8: 90 with the evidence; nothing of the diverged state is kept."""
    ended = world.run(FAKE_FAULT="nan@8", JOB_SAVE_STEPS="1", JOB_LOGGING_STEPS="5")

    assert ended.code == 90, ended.shown
    assert "nan" in ended.outcome["cause"].lower(), ended.outcome
    assert max(world.durable_steps()) == 7, world.durable_steps()
    assert not any(path.startswith(("adapter/", "partial/")) for path in world.files)
    return "90, step 7 durable"


def loss_spikes(world: World) -> str:
    """The loss jumps far out of its band and stays there."""
    ended = world.run(FAKE_FAULT="spike@40@all", JOB_MAX_STEPS="200", JOB_SAVE_STEPS="10")

    assert ended.code == 90, ended.shown
    assert "manifest.json" not in world.files
    assert max(world.durable_steps()) == 30, "a state from after the spike is durable"
    return f"90, step {max(world.durable_steps())} durable"


def no_gradient(world: World) -> str:
    """The gradient is zero from the first step on."""
    ended = world.run(FAKE_FAULT="frozen@1@all")

    assert ended.code == 90, ended.shown
    assert "grad" in ended.outcome["cause"], ended.outcome
    return "90"


def frozen_adapter(world: World) -> str:
    """Every step is too small to change a weight."""
    ended = world.run(JOB_LEARNING_RATE="1e-30")

    assert ended.code == 92, ended.shown
    assert "manifest.json" not in world.files
    return "92"
