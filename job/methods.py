"""What each method learns from and with which numbers, where none are set."""

from dataclasses import dataclass
from typing import Any

from job.records import Format

# Of a method's learning rate, which is for LoRA, what others take. All weights: a twentieth, 1e-5 for sft, as adapters
# begin at nothing and they do not. (IA)³ and VeRA learn factors that multiply what is there, of which a large change
# does little: 3e-3 for sft, as T-Few takes for (IA)³ (arXiv 2205.05638), and an order of magnitude more than LoRA for
# VeRA (arXiv 2310.11454). Virtual tokens reach the answer through attention alone: prompt tuning began with 0.3 (arXiv
# 2104.08691).
SHARES = {"full": 0.05, "ia3": 15.0, "vera": 10.0, "prefix": 50.0, "prompt": 50.0}


@dataclass(frozen=True)
class Method:
    """One method of training.

    Attributes:
        config: TRL's configuration of its trainer.
        formats: of rows that it learns from, and *mapped*, how columns are made into them.
        learning_rate: the peak for an adapter on a frozen base, and *why* it is that.
        settings: what only some methods have, with the defaults; upstream's own where it has one.
        sequences: that stand in one micro-batch for each row.
        forwards: passes over a micro-batch of which nothing is kept, for the reference.
        least: rows of a micro-batch.
    """

    config: str
    formats: tuple[Format, ...]
    mapped: str
    learning_rate: float
    why: str
    settings: dict[str, Any]
    sequences: int = 1
    forwards: int = 0
    least: int = 1

    def defaults(self, adapter: str) -> dict[str, Any]:
        """The settings that are left to the method, with *adapter*."""
        settings = {name: value for name, value in self.settings.items() if value is not None}
        if adapter == "full":  # of which every process would hold the best beside the present
            settings["load_best_model_at_end"] = False
        return {"learning_rate": self.learning_rate * SHARES.get(adapter, 1.0), **settings}

    @property
    def start(self) -> str:
        """What becomes of an adapter that training starts from. A reference is the model without its adapter, which
        must then be what the earlier run made of the base."""
        return "continue" if "beta" not in self.settings and not self.compares else "merge"

    @property
    def compares(self) -> bool:
        """Whether it learns from answers that are better or worse."""
        return "preference" in self.formats

    @property
    def draws(self) -> bool:
        """Whether the model learns from answers that it draws itself."""
        return "num_generations" in self.settings


# Of what a model answers itself; an answer that is there too is the one to compare with.
_PROMPTS: tuple[Format, ...] = ("prompt-only", "prompt-completion", "messages", "sharegpt", "alpaca")
_ANSWERS = {
    "max_completion_length": 512,
    "temperature": 1.0,
    "rewards": None,
    "reward_model": None,
    "reward_pattern": None,
    "reward_marker": None,
    "reward_length": 500,
}
_PAIRS = "JOB_COLUMNS=prompt=question,chosen=better,rejected=worse"
# By JOB_METHOD. Settings with the default None are there for the method, and off.
METHODS: dict[str, Method] = {
    "sft": Method(
        config="SFTConfig",
        formats=("messages", "sharegpt", "prompt-completion", "alpaca", "text"),
        mapped="JOB_COLUMNS=prompt=question,completion=answer",
        learning_rate=2e-4,
        why="about ten times the full fine-tuning rate, as LoRA needs",
        settings={"loss_type": ("nll",), "neftune_noise_alpha": None},
    ),
    "dpo": Method(
        config="DPOConfig",
        formats=("preference",),
        mapped=_PAIRS,
        learning_rate=1e-5,
        why="a twentieth of sft's: the loss is over whole answers, and a faster policy leaves its reference behind",
        settings={"loss_type": ("sigmoid",), "beta": 0.1},
        sequences=2,
        forwards=1,
    ),
    "kto": Method(
        config="KTOConfig",
        formats=("unpaired-preference", "preference"),
        mapped="JOB_COLUMNS=prompt=question,completion=answer,label=good",
        learning_rate=1e-5,
        why="as dpo, whose kind of loss it has",
        settings={"loss_type": ("kto",), "beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
        forwards=3,  # of the reference, and of both with the answers of other rows
        least=2,  # its prompts are paired with each other's answers
    ),
    "reward": Method(
        config="RewardConfig",
        formats=("preference",),
        mapped=_PAIRS,
        learning_rate=1e-4,
        why="upstream's; half of sft's, as the head begins at random",
        settings={},
        sequences=2,
    ),
    "rloo": Method(
        config="RLOOConfig",
        formats=_PROMPTS,
        mapped="JOB_COLUMNS=prompt=question, or with the right answers JOB_COLUMNS=prompt=question,completion=answer",
        learning_rate=1e-5,
        why="ten times upstream's, which is for all weights; answers drawn from a faster policy soon teach it nothing",
        # Four answers learned more than upstream's two in arXiv 2402.14740.
        settings={"beta": 0.05, "num_generations": 4, **_ANSWERS},
    ),
    "grpo": Method(
        config="GRPOConfig",
        formats=_PROMPTS,
        mapped="JOB_COLUMNS=prompt=question, or with the right answers JOB_COLUMNS=prompt=question,completion=answer",
        learning_rate=1e-5,
        why="as rloo",
        settings={"loss_type": ("dapo",), "beta": 0.0, "num_generations": 8, **_ANSWERS},
    ),
}


def methods_with(setting: str) -> list[str]:
    """The methods that have *setting*."""
    return [name for name, method in METHODS.items() if setting in method.settings]


def told(setting: str) -> str:
    """The default of *setting* for each method that has one, in words for the reference."""
    defaults = {name: method.defaults("lora").get(setting) for name, method in METHODS.items()}
    return ", ".join(f"`{_text(value)}` for {name}" for name, value in defaults.items() if value is not None)


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else f"{value:g}"
