"""The manifests as they reach a cluster: rules that a schema cannot tell, each shown to find its mistake."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.kubernetes_rules import problems
from tests.deploy.kustomize import Manifest, rendered
from tests.tiny import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
CLOUDS = sorted(path.name for path in (FOLDER / "components").iterdir())
Spoil = Callable[[Manifest, Manifest], Any]  # the Job and the ConfigMap


def parts(manifests: list[Manifest]) -> tuple[Manifest, Manifest]:
    job, settings = (next(one for one in manifests if one["kind"] == kind) for kind in ("Job", "ConfigMap"))
    return job, settings


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_breaks_no_rule(overlay):
    assert problems(rendered(FOLDER / "overlays" / overlay)) == []


def test_there_is_one_for_a_gpu_for_a_whole_machine_and_for_a_check():
    gpus = {
        name: parts(rendered(FOLDER / "overlays" / name))[0]["spec"]["template"]["spec"]["containers"][0]["resources"][
            "limits"
        ].get("nvidia.com/gpu")
        for name in OVERLAYS
    }

    assert gpus == {"check": None, "node": "8", "one-gpu": "1"}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_cloud_has_its_place_and_tolerates_the_taint_of_gpus(cloud, tmp_path):
    text = (FOLDER / "overlays" / "one-gpu" / "kustomization.yaml").read_text()
    overlay = tmp_path / "kubernetes" / "overlays" / "here"
    overlay.mkdir(parents=True)
    for name in ("base", "components"):
        (tmp_path / "kubernetes" / name).symlink_to(FOLDER / name)
    (overlay / "kustomization.yaml").write_text(text.replace("components/gpu-operator", f"components/{cloud}"))

    manifests = rendered(overlay)

    assert problems(manifests) == []
    pod = parts(manifests)[0]["spec"]["template"]["spec"]
    assert len(pod["nodeSelector"]) == 1
    assert {"nvidia.com/gpu", "sku"} & {toleration["key"] for toleration in pod["tolerations"]}


def pod(job: Manifest) -> Any:
    return job["spec"]["template"]["spec"]


def container(job: Manifest) -> Any:
    return pod(job)["containers"][0]


def rules(job: Manifest) -> Any:
    return job["spec"]["podFailurePolicy"]["rules"]


def volume(job: Manifest, name: str) -> Any:
    return next(one for one in pod(job)["volumes"] if one["name"] == name)


def mount(job: Manifest, name: str) -> Any:
    return next(one for one in container(job)["volumeMounts"] if one["name"] == name)


MISTAKES: dict[str, tuple[Spoil, str]] = {
    "restarts in place": (lambda j, _: pod(j).update(restartPolicy="OnFailure"), "restartPolicy"),
    "replaced while it ends": (
        lambda j, _: j["spec"].update(podReplacementPolicy="TerminatingOrFailed"),
        "podReplacementPolicy",
    ),
    "no rule for preemption": (lambda j, _: rules(j).pop(0), "podFailurePolicy: a preempted"),
    "preemption fails the job": (lambda j, _: rules(j)[0].update(action="FailJob"), "podFailurePolicy: a preempted"),
    "rules in another order": (
        lambda j, _: rules(j).append(rules(j).pop(0)),
        "podFailurePolicy: exit codes are looked at",
    ),
    "a permanent code forgotten": (
        lambda j, _: rules(j)[1]["onExitCodes"]["values"].remove(92),
        "podFailurePolicy: 92",
    ),
    "a code that another machine mends is permanent": (
        lambda j, _: rules(j)[1]["onExitCodes"]["values"].append(81),
        "podFailurePolicy: 81",
    ),
    "an interruption counts": (lambda j, _: rules(j).pop(2), "podFailurePolicy: 75"),
    "all codes but these": (lambda j, _: rules(j)[1]["onExitCodes"].update(operator="NotIn"), "podFailurePolicy: 65"),
    "another container's codes": (
        lambda j, _: rules(j)[1]["onExitCodes"].update(containerName="main"),
        "podFailurePolicy: 65",
    ),
    "a code that there is not": (
        lambda j, _: rules(j)[1]["onExitCodes"]["values"].append(64),
        "podFailurePolicy: the job never",
    ),
    "grace shorter than the job's": (
        lambda j, _: pod(j).update(terminationGracePeriodSeconds=30),
        "terminationGracePeriodSeconds",
    ),
    "a longer grace of the job's": (lambda _, s: s["data"].update(JOB_GRACE_S="90"), "terminationGracePeriodSeconds"),
    "no deadline": (lambda j, _: j["spec"].pop("activeDeadlineSeconds"), "activeDeadlineSeconds"),
    "a deadline before the job's own": (lambda _, s: s["data"].update(JOB_MAX_HOURS="48"), "activeDeadlineSeconds"),
    "no limit of hours": (lambda _, s: s["data"].pop("JOB_MAX_HOURS"), "JOB_MAX_HOURS"),
    "never cleaned up": (lambda j, _: j["spec"].pop("ttlSecondsAfterFinished"), "ttlSecondsAfterFinished"),
    "two at once": (lambda j, _: j["spec"].update(parallelism=2), "parallelism"),
    "no retry": (lambda j, _: j["spec"].update(backoffLimit=0), "backoffLimit"),
    "root": (lambda j, _: pod(j)["securityContext"].update(runAsUser=0), "runAsNonRoot"),
    "no seccomp": (lambda j, _: pod(j)["securityContext"].pop("seccompProfile"), "seccompProfile"),
    "no group for the credentials": (lambda j, _: pod(j)["securityContext"].pop("fsGroup"), "fsGroup"),
    "a token for the cluster": (
        lambda j, _: pod(j).pop("automountServiceAccountToken"),
        "automountServiceAccountToken",
    ),
    "service links": (lambda j, _: pod(j).update(enableServiceLinks=True), "enableServiceLinks"),
    "the host's network": (lambda j, _: pod(j).update(hostNetwork=True), "hostNetwork"),
    "escalation": (
        lambda j, _: container(j)["securityContext"].pop("allowPrivilegeEscalation"),
        "allowPrivilegeEscalation",
    ),
    "a root to write": (
        lambda j, _: container(j)["securityContext"].update(readOnlyRootFilesystem=False),
        "readOnlyRootFilesystem",
    ),
    "a capability": (
        lambda j, _: container(j)["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
        "capabilities",
    ),
    "privileged": (lambda j, _: container(j)["securityContext"].update(privileged=True), "privileged"),
    "the outcome elsewhere": (
        lambda j, _: container(j).update(terminationMessagePath="/tmp/end"),
        "terminationMessagePath",
    ),
    "latest": (lambda j, _: container(j).update(image="registry.example:5000/graft:latest"), "image"),
    "no tag": (lambda j, _: container(j).update(image="registry.example:5000/graft"), "image"),
    "through a shell": (lambda j, _: container(j).update(command=["sh", "-c", "python entrypoint.py"]), "command"),
    "settings of another name": (lambda _, s: s["metadata"].update(name="settings"), "envFrom"),
    "nowhere to work": (lambda j, _: container(j)["volumeMounts"].remove(mount(j, "workspace")), "/workspace"),
    "a workspace without a limit": (lambda j, _: volume(j, "workspace")["emptyDir"].pop("sizeLimit"), "/workspace"),
    "the host's folder": (lambda j, _: pod(j)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "hostPath"),
    "shared memory on a disk": (lambda j, _: volume(j, "shared-memory")["emptyDir"].pop("medium"), "/dev/shm"),
    "docker's shared memory": (
        lambda j, _: volume(j, "shared-memory")["emptyDir"].update(sizeLimit="64Mi"),
        "/dev/shm: too small",
    ),
    "a mount of nothing": (lambda j, _: mount(j, "tmp").update(name="temporary"), "volumeMounts"),
    "no GPU": (lambda j, _: container(j)["resources"]["limits"].pop("nvidia.com/gpu"), "nvidia.com/gpu"),
    "a check with a GPU": (lambda j, _: container(j).update(args=["check"]), "nvidia.com/gpu"),
    "memory that is not asked for": (lambda j, _: container(j)["resources"]["requests"].pop("memory"), "memory"),
    "no limit of the disk": (
        lambda j, _: container(j)["resources"]["limits"].pop("ephemeral-storage"),
        "ephemeral-storage",
    ),
    "less disk than the workspace": (
        lambda j, _: [
            container(j)["resources"][kind].update({"ephemeral-storage": "50Gi"}) for kind in ("limits", "requests")
        ],
        "ephemeral-storage: less",
    ),
    "secrets in the environment": (
        lambda j, _: container(j)["env"].append(
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}
        ),
        "env: a credential",
    ),
    "a secret among the settings": (
        lambda _, s: s["data"].update(HF_TOKEN="hf_x"),
        "HF_TOKEN: a credential in a ConfigMap",
    ),
    "credentials for all": (lambda j, _: volume(j, "credentials")["secret"].update(defaultMode=0o444), "credentials"),
    "credentials to write": (lambda j, _: mount(j, "credentials").pop("readOnly"), "credentials: can be written"),
    "a file that is not there": (lambda j, _: mount(j, "credentials").update(mountPath="/etc/x"), "HF_TOKEN_PATH"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake):
    manifests = copy.deepcopy(rendered(FOLDER / "overlays" / "node"))
    spoil, word = MISTAKES[mistake]

    spoil(*parts(manifests))

    assert any(word in found for found in problems(manifests)), problems(manifests)


def test_what_this_renders_is_no_more_than_what_it_knows(tmp_path: Path):
    (tmp_path / "kustomization.yaml").write_text("resources: []\nsecretGenerator: []\n")

    with pytest.raises(AssertionError, match="secretGenerator"):
        rendered(tmp_path)
