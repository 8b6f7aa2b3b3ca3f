"""What every verb that touches data begins with: the machine, the model and the rows, looked into but not fetched."""

from collections.abc import Mapping
from dataclasses import dataclass

from job.facts.chat_template import find_chat_template
from job.facts.hardware import inspect_hardware
from job.inputs import ModelSource, Source, find_dataset, find_model
from job.modules import check_modules
from job.plan import check_host
from job.processes import StopRequest, Task
from job.records import ChatTemplateChoice, HardwareFacts
from job.reward_model import RewardSource, find_reward_model
from job.spec import JobSpec
from job.starting import AdapterSource, find_adapter


@dataclass(frozen=True)
class Inputs:
    """What the job was given and what it runs on."""

    hardware: HardwareFacts
    model: ModelSource
    chat_template: ChatTemplateChoice | None  # None: nothing was asked for
    train: tuple[Source, ...]
    held_out: Source | None
    adapter: AdapterSource | None = None  # that training starts from
    reward: RewardSource | None = None  # None: no model scores answers

    @property
    def revisions(self) -> dict[str, str]:
        """The commit of each place on the Hub, by URI."""
        sources = (self.model.source, *self.train, *((self.held_out,) if self.held_out else ()))
        sources += (self.adapter.source,) if self.adapter else ()
        known = {str(source.uri): source.revision for source in sources if source.revision}
        return known | (self.reward.revisions if self.reward else {})

    @property
    def num_gpus(self) -> int:
        """The GPUs that are paid for, used or not; a machine without counts as one."""
        return max(1, len(self.hardware.gpus))


def find_inputs(
    spec: JobSpec,
    env: Mapping[str, str],
    stop: StopRequest,
    *,
    needs_host: bool = True,
    commits: Mapping[str, str] | None = None,
) -> Inputs:
    """Read of every input what little shows that it can be read. With *needs_host* this machine must be able to train.
    What stands in *commits* (URI on the Hub -> commit) is taken as it was there.

    Raises:
        NotFound, AccessDenied, NetworkExhausted: an input cannot be reached.
        BadSpec, BadData: it can, but not trained.
        UnsuitableHost: this machine cannot train the model.
        Interrupted: a signal arrived.
    """
    hardware = inspect_hardware(env)
    # A job that is refused leaves nothing behind, not even the folder that it would have worked in.
    cache = spec.work_dir / "cache" if spec.work_dir.is_dir() else None
    model = Task(lambda: find_model(spec.model, cache, commits)).result(stop)
    check_modules(spec, model.facts)
    if needs_host:
        check_host(spec, hardware, model.facts.parameters)
    adapter = Task(lambda: find_adapter(spec, model, commits)).result(stop)
    template = spec.chat_template
    chosen = Task(lambda: find_chat_template(template)).result(stop) if template else None
    train = Task(lambda: tuple(find_dataset(uri, commits) for uri in spec.dataset_uri)).result(stop)
    eval_uri = spec.eval_dataset_uri
    held_out = Task(lambda: find_dataset(eval_uri, commits)).result(stop) if eval_uri else None
    judge = spec.reward_model
    reward = Task(lambda: find_reward_model(judge, cache, commits)).result(stop) if judge else None
    return Inputs(hardware, model, chosen, train, held_out, adapter, reward)
