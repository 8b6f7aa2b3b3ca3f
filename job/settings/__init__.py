"""Every setting of a job, by what it is about.

Names are upstream's own (TRL, PEFT), lower case; the variable is ``JOB_`` + the name in capitals.
"""

from pydantic import BaseModel

from job.settings.adapter import AdapterSettings
from job.settings.evaluation import EvaluationSettings
from job.settings.inputs import InputSettings
from job.settings.method import MethodSettings
from job.settings.online import OnlineSettings
from job.settings.optimization import OptimizationSettings
from job.settings.running import RunningSettings

# In the order of the reference.
SECTIONS: dict[str, type[BaseModel]] = {
    "Inputs and output": InputSettings,
    "Method": MethodSettings,
    "Rewards": OnlineSettings,
    "Adapter": AdapterSettings,
    "Steps": OptimizationSettings,
    "Evaluation": EvaluationSettings,
    "Running": RunningSettings,
}


class Settings(
    InputSettings,
    MethodSettings,
    OnlineSettings,
    AdapterSettings,
    OptimizationSettings,
    EvaluationSettings,
    RunningSettings,
):
    """All of them, each valid by itself."""
