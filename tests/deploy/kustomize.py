"""The part of kustomize that deploy/kubernetes uses, for machines without the program: resources, components, JSON
patches (add, replace, remove), generated ConfigMaps, images, a suffix of names. Anything else is an error."""

from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
KNOWN = {"apiVersion", "kind", "resources", "components", "patches", "configMapGenerator", "images", "nameSuffix"}


def rendered(folder: Path) -> list[Manifest]:
    """The manifests that ``kubectl apply --kustomize`` would send."""
    layer = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(layer) <= KNOWN, f"{folder}: {sorted(set(layer) - KNOWN)} cannot be rendered here"
    manifests = [manifest for name in layer.get("resources", ()) for manifest in _resources(folder / name)]
    manifests += [_config_map(folder, made) for made in layer.get("configMapGenerator", ())]
    for part in [layer, *(_component(folder / name) for name in layer.get("components", ()))]:
        for patch in part.get("patches", ()):
            _patch(manifests, patch)
    for manifest in manifests:
        _rename(manifest, layer)
    return manifests


def _resources(path: Path) -> list[Manifest]:
    return rendered(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))


def _component(folder: Path) -> Manifest:
    part: Manifest = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert (part["kind"], set(part) - {"apiVersion", "kind"}) == ("Component", {"patches"}), folder
    return part


def _config_map(folder: Path, made: Manifest) -> Manifest:
    assert set(made) == {"name", "envs"}
    lines = [line for name in made["envs"] for line in (folder / name).read_text().splitlines()]
    data = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": made["name"]}, "data": data}


def _patch(manifests: list[Manifest], patch: Manifest) -> None:
    target = patch["target"]
    assert set(target) <= {"kind", "name"}
    found = [one for one in manifests if one["kind"] == target["kind"]]
    found = [one for one in found if target.get("name", one["metadata"]["name"]) == one["metadata"]["name"]]
    assert found, f"a patch of {target} meets nothing"
    for manifest in found:
        for operation in yaml.safe_load(patch["patch"]):
            _apply(manifest, operation)


def _apply(manifest: Any, operation: Manifest) -> None:
    """One operation of RFC 6902."""
    *parents, last = (part.replace("~1", "/") for part in operation["path"].removeprefix("/").split("/"))
    place = manifest
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    match operation["op"], place:
        case "add", list():
            assert last == "-"
            place.append(operation["value"])
        case "add", dict():
            place[last] = operation["value"]
        case (("replace" | "remove"), dict()):
            assert last in place, f"{operation['path']} is not there"
            del place[last]
            if operation["op"] == "replace":
                place[last] = operation["value"]
        case _:
            raise AssertionError(f"{operation} cannot be applied here")


def _rename(manifest: Manifest, layer: Manifest) -> None:
    """The suffix, also where the settings are named, and the image's place. (kustomize also adds a hash.)"""
    suffix = layer.get("nameSuffix", "")
    manifest["metadata"]["name"] += suffix
    if manifest["kind"] != "Job":
        return
    for container in manifest["spec"]["template"]["spec"]["containers"]:
        for source in container["envFrom"]:
            source["configMapRef"]["name"] += suffix
        for image in layer.get("images", ()):
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
