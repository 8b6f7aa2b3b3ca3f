"""What the processes of one job tell each other: the JSON files of a `RunDir`, each a frozen record.

`Facts` and `Plan` are written by the supervisor, `PrepareTask` too; `Prepared` comes back from ``job.prepare``,
`PackingProbe`, `Activations`, `TorchBuild` and `AllReduce` from ``job.probe``, `TrainResult` or `WorkerError` from
``job.train``.
"""

from job.records.base import Allowance, Format, Precision, Quantization, Record, Strategy
from job.records.evaluate import Answer, CurveFinding, Pattern, Score
from job.records.facts import (
    DatasetFacts,
    Facts,
    Gpu,
    HardwareFacts,
    ModelFacts,
    TensorGroup,
)
from job.records.live import Claim, Exit, Layout, Progress, Pulse, Pushed, StopNotice
from job.records.outcome import Outcome
from job.records.plan import Alternative, Decided, Forecast, MemoryEstimate, MemoryItem, Plan
from job.records.prepare import (
    HELD_OUT,
    PROGRESS,
    ChatTemplateChoice,
    DataFile,
    Findings,
    GateSettings,
    HeldOut,
    HeldOutRow,
    Prepared,
    PrepareTask,
    Preview,
    PreviewPiece,
    PreviewRow,
    PromptSettings,
    SplitStats,
)
from job.records.probe import Activations, AllReduce, DryRun, DryRunTask, PackingProbe, TorchBuild
from job.records.train import AdapterProof, AddedTokens, LogEntry, RewardModel, TrainResult, TrainTask, WorkerError

__all__ = [
    "HELD_OUT",
    "PROGRESS",
    "Activations",
    "AdapterProof",
    "AddedTokens",
    "AllReduce",
    "Allowance",
    "Alternative",
    "Answer",
    "ChatTemplateChoice",
    "Claim",
    "CurveFinding",
    "DataFile",
    "DatasetFacts",
    "Decided",
    "DryRun",
    "DryRunTask",
    "Exit",
    "Facts",
    "Findings",
    "Forecast",
    "Format",
    "GateSettings",
    "Gpu",
    "HardwareFacts",
    "HeldOut",
    "HeldOutRow",
    "Layout",
    "LogEntry",
    "MemoryEstimate",
    "MemoryItem",
    "ModelFacts",
    "Outcome",
    "PackingProbe",
    "Pattern",
    "Plan",
    "Precision",
    "PrepareTask",
    "Prepared",
    "Preview",
    "PreviewPiece",
    "PreviewRow",
    "Progress",
    "PromptSettings",
    "Pulse",
    "Pushed",
    "Quantization",
    "Record",
    "RewardModel",
    "SampleAnswer",
    "Score",
    "SplitStats",
    "StopNotice",
    "Strategy",
    "TensorGroup",
    "TorchBuild",
    "TrainResult",
    "TrainTask",
    "WorkerError",
]
