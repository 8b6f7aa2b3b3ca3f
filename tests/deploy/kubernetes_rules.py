"""What a manifest of the job must be like, beyond what a schema can tell: functions from the rendered manifests to the
problems that they have."""

import re
from collections.abc import Iterator
from typing import Any

from job.errors import ERROR_CLASSES
from job.spec import JobSpec
from tests.deploy.kustomize import Manifest

GRACE_S = JobSpec.model_fields["grace_s"].default
MIN_SHARED_MIB = 64  # of each GPU, below which the job refuses the machine (80)
UPLOAD_S = 20  # of the last checkpoint, behind the grace
_UNITS = {"Mi": 2**20, "Gi": 2**30}


def problems(manifests: list[Manifest]) -> list[str]:
    """All of them, in a word each and what is wrong."""
    job, settings = (next(one for one in manifests if one["kind"] == kind) for kind in ("Job", "ConfigMap"))
    rules = (_failures, _time, _pod, _container, _volumes, _resources, _secrets)
    return [f"{job['metadata']['name']}: {found}" for rule in rules for found in rule(job, settings)]


def _failures(job: Manifest, _: Manifest) -> Iterator[str]:
    """https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy: first match wins."""
    spec = job["spec"]
    if spec["template"]["spec"].get("restartPolicy") != "Never":
        yield "restartPolicy: podFailurePolicy wants Never"
    if spec.get("podReplacementPolicy") != "Failed":
        yield "podReplacementPolicy: a replacement would meet the attempt before, still alive"
    rules = spec.get("podFailurePolicy", {}).get("rules", [])
    disrupted = [
        at
        for at, rule in enumerate(rules)
        if {"type": "DisruptionTarget", "status": "True"} in rule.get("onPodConditions", ())
    ]
    if not disrupted or rules[disrupted[0]]["action"] != "Ignore":
        yield "podFailurePolicy: a preempted pod counts as a failure"
    elif disrupted[0] != 0:
        yield "podFailurePolicy: exit codes are looked at before the preemption that caused them"
    for error in ERROR_CLASSES:
        wanted = {"never": "FailJob", "operator": "FailJob", "uncounted": "Ignore"}.get(error.retry, "Count")
        if (action := _action(rules, job, error.exit_code)) != wanted:
            yield f"podFailurePolicy: {error.exit_code} ({error.__name__}) is {action}, not {wanted}"
    known = {error.exit_code for error in ERROR_CLASSES}
    listed = [code for rule in rules for code in rule.get("onExitCodes", {}).get("values", ())]
    if others := sorted(set(listed) - known):
        yield f"podFailurePolicy: the job never ends with {others}"


def _action(rules: list[Any], job: Manifest, code: int) -> str:
    names = [container["name"] for container in job["spec"]["template"]["spec"]["containers"]]
    for rule in rules:
        codes = rule.get("onExitCodes")
        if (
            codes
            and codes.get("containerName", names[0]) in names
            and (code in codes["values"]) is (codes["operator"] == "In")
        ):
            return str(rule["action"])
    return "Count"


def _time(job: Manifest, settings: Manifest) -> Iterator[str]:
    spec, env = job["spec"], settings["data"]
    grace_s = float(env.get("JOB_GRACE_S", GRACE_S))
    if spec["template"]["spec"].get("terminationGracePeriodSeconds", 30) < grace_s + UPLOAD_S:
        yield f"terminationGracePeriodSeconds: less than JOB_GRACE_S={grace_s:g} and the upload of a checkpoint"
    deadline_s = spec.get("activeDeadlineSeconds", 0)
    if not deadline_s:
        yield "activeDeadlineSeconds: a job that hangs is paid for without end"
    elif _runs(job) and deadline_s < float(env.get("JOB_MAX_HOURS", "0")) * 3600 + 3600:
        yield "activeDeadlineSeconds: Kubernetes ends the job before JOB_MAX_HOURS lets it save a partial result"
    if "JOB_MAX_HOURS" not in env:
        yield "JOB_MAX_HOURS: not set, so that only activeDeadlineSeconds ends a run, without a result"
    if "ttlSecondsAfterFinished" not in spec:
        yield "ttlSecondsAfterFinished: finished jobs stay for ever"
    if spec.get("parallelism") != 1 or spec.get("completions") != 1:
        yield "parallelism: a run has one live attempt"
    if _runs(job) and not 1 <= spec.get("backoffLimit", 6) <= 6:
        yield "backoffLimit: none of what another machine can mend is tried again, or it is for ever"


def _pod(job: Manifest, _: Manifest) -> Iterator[str]:
    """Pod Security Standards, restricted: https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    pod = job["spec"]["template"]["spec"]
    security = pod.get("securityContext", {})
    if not security.get("runAsNonRoot") or not security.get("runAsUser"):
        yield "runAsNonRoot: the pod may run as root"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "seccompProfile: not the runtime's default"
    if not security.get("fsGroup"):
        yield "fsGroup: the user cannot read the credentials"
    if pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken: the job could speak to the cluster"
    if pod.get("enableServiceLinks") is not False:
        yield "enableServiceLinks: a service named job gives the job JOB_ variables that are none of its own"
    yield from (f"{name}: shared with the host" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name))


def _container(job: Manifest, settings: Manifest) -> Iterator[str]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation: allowed"
    if not security.get("readOnlyRootFilesystem"):
        yield "readOnlyRootFilesystem: the root can be written"
    if security.get("capabilities", {}).get("drop") != ["ALL"] or security.get("capabilities", {}).get("add"):
        yield "capabilities: not all dropped"
    if security.get("privileged"):
        yield "privileged: the container has the host's rights"
    if container.get("terminationMessagePath", "/dev/termination-log") != "/dev/termination-log":
        yield "terminationMessagePath: not where the job writes its outcome"
    if re.search(r":latest$|^[^:@]+$", container["image"].rpartition("/")[2]):
        yield "image: not one version, so that attempts may differ"
    if "command" in container:
        yield "command: it takes the place of the entrypoint that hears signals"
    if [source.get("configMapRef", {}).get("name") for source in container.get("envFrom", ())] != [
        settings["metadata"]["name"]
    ]:
        yield "envFrom: the settings do not reach the job"


def _volumes(job: Manifest, _: Manifest) -> Iterator[str]:
    pod = job["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
    mounts = {mount["mountPath"]: mount for mount in pod["containers"][0].get("volumeMounts", ())}
    yield from (f"volumeMounts: nothing named {m['name']}" for m in mounts.values() if m["name"] not in volumes)
    yield from (f"hostPath: {name} is the host's own" for name, volume in volumes.items() if "hostPath" in volume)
    for path in ("/workspace", "/tmp", "/dev/shm"):
        volume = volumes.get(mounts.get(path, {}).get("name", ""), {}).get("emptyDir")
        if volume is None or mounts[path].get("readOnly"):
            yield f"{path}: the job has to write there"
        elif "sizeLimit" not in volume:
            yield f"{path}: without a limit"
        elif path == "/dev/shm":
            yield from _shared_memory(volume, _gpus(job))


def _shared_memory(volume: Manifest, gpus: int) -> Iterator[str]:
    if volume.get("medium") != "Memory":
        yield "/dev/shm: on a disk"
    if _bytes(volume["sizeLimit"]) < gpus * MIN_SHARED_MIB * 2**20:
        yield f"/dev/shm: too small for NCCL between {gpus} GPUs"


def _resources(job: Manifest, _: Manifest) -> Iterator[str]:
    container = job["spec"]["template"]["spec"]["containers"][0]
    requests, limits = (container.get("resources", {}).get(kind, {}) for kind in ("requests", "limits"))
    if _runs(job) and not _gpus(job):
        yield "nvidia.com/gpu: none is asked for"
    if not _runs(job) and _gpus(job):
        yield "nvidia.com/gpu: a check would hold a GPU"
    for name in ("memory", "ephemeral-storage"):
        if name not in limits or requests.get(name) != limits[name]:
            yield f"{name}: what is asked for is not what may be used, so that a full machine evicts the pod"
    if "cpu" not in requests:
        yield "cpu: none is asked for"
    workspace = next(
        (v["emptyDir"] for v in job["spec"]["template"]["spec"]["volumes"] if v["name"] == "workspace"), {}
    )
    if _runs(job) and _bytes(workspace.get("sizeLimit", "0Gi")) > _bytes(limits.get("ephemeral-storage", "0Gi")):
        yield "ephemeral-storage: less than /workspace may hold"


def _secrets(job: Manifest, settings: Manifest) -> Iterator[str]:
    """As files, which the SDKs find by a variable that names them."""
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    if any("secretRef" in source for source in container.get("envFrom", ())) or any(
        "valueFrom" in v for v in container["env"]
    ):
        yield "env: a credential in the environment"
    if words := [name for name in settings["data"] if re.search(r"TOKEN|SECRET|PASSWORD|KEY", name)]:
        yield f"{words[0]}: a credential in a ConfigMap"
    held = next((v["secret"] for v in pod["volumes"] if "secret" in v), None)
    mount = next((m for m in container["volumeMounts"] if m["name"] == "credentials"), {})
    if not held or held.get("defaultMode", 0o644) & 0o007:
        yield "credentials: no secret, or one that all may read"
    if not mount.get("readOnly"):
        yield "credentials: can be written"
    paths = {v["name"]: v.get("value", "") for v in container["env"]}
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "HF_TOKEN_PATH"):
        if not paths.get(name, "").startswith(mount.get("mountPath", "-") + "/"):
            yield f"{name}: names no file of the secret"


def _runs(job: Manifest) -> bool:
    """Whether it trains, and is not a check."""
    return job["spec"]["template"]["spec"]["containers"][0].get("args", ["run"]) == ["run"]


def _gpus(job: Manifest) -> int:
    limits = job["spec"]["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {})
    return int(limits.get("nvidia.com/gpu", 0))


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]
