"""What the user asked for: every setting (`job.settings`), none of which contradicts another."""

import hashlib
import json
from typing import Any, Self

from pydantic import ConfigDict, model_validator

from job.answers import JUDGING
from job.contradictions import contradictions
from job.methods import METHODS
from job.settings import Settings


class JobSpec(Settings):
    """A frozen, validated job. Holds no secret: credentials stay in the variables of the SDKs that read them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _as_the_method_has_it(cls, given: Any) -> Any:
        """What is not set is what suits the method, so that every later reader finds the number itself."""
        method = METHODS.get(str(given.get("method", "sft"))) if isinstance(given, dict) else None
        if method is None:
            return given
        start = {"adapter_start": method.start} if given.get("adapter_uri") else {}
        return {
            **method.defaults(str(given.get("adapter", "lora"))),
            **start,
            **{name: value for name, value in given.items() if value is not None},
        }

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if found := list(contradictions(self)):
            raise ValueError("\n".join(found))
        return self

    @property
    def evaluates(self) -> bool:
        """Whether there are rows to evaluate on."""
        return bool(self.eval_fraction or self.eval_dataset_uri)

    @property
    def tracking_id(self) -> str:
        """What a tracker knows the run by: the same for all attempts at it."""
        return hashlib.sha256(f"{self.output_uri[:1]}{self.fingerprint}".encode()).hexdigest()[:16]

    @property
    def tracking_name(self) -> str:
        """What a tracker calls the run."""
        return self.run_name or self.output_uri[0].rstrip("/").rpartition("/")[2]

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that change the result."""
        fields = {name for name, info in type(self).model_fields.items() if info.json_schema_extra["changes_result"]}  # type: ignore[index]
        return self.model_dump(mode="json", include=fields)

    @property
    def judged_by(self) -> str:
        """SHA-256 over the settings by which a trained adapter is found good enough or not."""
        judging = self.model_dump(mode="json", include=set(JUDGING))
        return hashlib.sha256(json.dumps(judging, sort_keys=True).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the settings that change the result: two runs with the same one are the same run."""
        return hashlib.sha256(json.dumps(self.decisive, sort_keys=True).encode()).hexdigest()
