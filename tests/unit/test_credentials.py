"""Who is told a credential, and who is not."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from job.environment import load_spec
from job.errors import BadSpec
from job.processes import children_env, tracker_env
from job.redact import redactor
from tests.tiny import ROOT


def test_a_password_in_a_url_is_kept_from_children():
    env = {"HTTPS_PROXY": "http://me:pass-word@proxy:3128", "NO_PROXY": "localhost", "HTTP_PROXY": "http://proxy:3128"}

    assert {"NO_PROXY", "HTTP_PROXY"} == set(children_env(env)) - {"PYTHONPATH"}


def test_a_tracker_gets_its_own_credentials_and_the_way_to_its_server_only():
    env = {
        "MLFLOW_TRACKING_URI": "https://me:pass-word@mlflow",
        "HTTPS_PROXY": "http://me:pass-word@proxy:3128",
        "WANDB_API_KEY": "wandb-key",
        "HF_TOKEN": "hub-token",
        "AWS_SECRET_ACCESS_KEY": "aws-secret",
    }

    told = tracker_env(env, children_env(env))

    assert set(told) - {"PYTHONPATH"} == {"MLFLOW_TRACKING_URI", "HTTPS_PROXY", "WANDB_API_KEY"}


@pytest.mark.parametrize(
    ("shown", "masked"),
    [
        ("GET https://s3/x?X-Amz-Security-Token=FwoG%2Fx&y=1", "GET https://s3/x?X-Amz-Security-Token=***&y=1"),
        ("GET https://s3/x?X-Amz-Signature=0a1b&y=1", "GET https://s3/x?X-Amz-Signature=***&y=1"),
        ("proxy http://me:pass-word@host:1 failed", "proxy http://***@host:1 failed"),
        ("redis://:pass-word@host", "redis://***@host"),
        ("GET https://acct.blob/x?sv=1&sig=a%2Bb&se=2", "GET https://acct.blob/x?sv=1&sig=***&se=2"),
        ("'https://host/x?access_token=abc'", "'https://host/x?access_token=***'"),
        ("https://host/x?page=2&design=3", "https://host/x?page=2&design=3"),
    ],
)
def test_what_looks_like_a_credential_is_masked_wherever_it_came_from(shown, masked):
    assert redactor({})(shown) == masked


@pytest.mark.parametrize("name", ["JOB_MODEL", "JOB_DATASET_URI", "JOB_OUTPUT_URI", "JOB_ADAPTER_URI"])
@pytest.mark.parametrize("query", ["sig=canary", "X-Amz-Signature=canary", "x=canary", "a=1&b=canary"])
def test_a_signed_address_in_the_wrong_place_is_not_repeated(name, query):
    env = {"JOB_MODEL": "org/m", "JOB_DATASET_URI": "org/d", "JOB_OUTPUT_URI": "/out"}

    with pytest.raises(BadSpec) as refused:
        load_spec(env | {name: f"https://host/x?{query}"})

    assert f"{name}=https://host/x?…: " in str(refused.value)
    assert "canary" not in str(refused.value)


# As an unprivileged user, which the image's is: a parent, hidden or not, and a child that looks at it.
LOOK = """
import os, sys
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
from job.signals import _LIBC, hide_environment
_LIBC.prctl(4, 1, 0, 0, 0)  # as after an exec; a change of user alone hides a process
if sys.argv[1] == "hidden":
    hide_environment()
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
try:
    open(f"/proc/{os.getppid()}/environ").close()
except PermissionError:
    os._exit(13)
"""


@pytest.mark.parametrize(("how", "status"), [("hidden", 13), ("open", 0)])
def test_a_worker_cannot_read_the_supervisors_environment_in_proc(how, status):
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from job import signals{LOOK}"

    assert subprocess.run([sys.executable, "-c", script, how]).returncode == status


def test_the_entrypoint_hides_its_environment_before_it_reads_it():
    lines = (ROOT / "entrypoint.py").read_text().splitlines()

    assert lines[lines.index('if __name__ == "__main__":') + 1].strip() == "hide_environment()"


LOADERS = ("from_pretrained", "from_config")


def loading_calls(path: Path) -> list[ast.Call]:
    """The calls in *path* that have transformers make a config, a tokenizer or a model. PEFT's take no such code."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in LOADERS]
    return [call for call in named if not ast.unparse(call.func).startswith("Peft")]


def test_no_call_leaves_it_to_upstream_whether_a_models_own_code_is_run():
    found = [(path.name, call) for path in sorted(ROOT.glob("job/**/*.py")) for call in loading_calls(path)]

    says = [(name, {one.arg: ast.unparse(one.value) for one in call.keywords}) for name, call in found]
    assert len(says) >= 10
    assert [name for name, words in says if words.get("trust_remote_code") != "False"] == []


def test_weights_are_read_as_safetensors_only():
    loading = [call for path in ROOT.glob("job/**/*.py") for call in loading_calls(path)]
    models = [call for call in loading if any(one.arg == "dtype" for one in call.keywords)]
    read = [call for call in models if isinstance(call.func, ast.Attribute) and call.func.attr == "from_pretrained"]

    assert read
    assert [ast.unparse(call) for call in read if "use_safetensors=True" not in map(ast.unparse, call.keywords)] == []


def test_nothing_of_ours_unpickles():
    modules = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for path in ROOT.glob("job/**/*.py"):
        tree = ast.walk(ast.parse(path.read_text()))
        names = [node for node in tree if isinstance(node, (ast.Import, ast.ImportFrom, ast.Attribute))]
        used = {alias.name for node in names if isinstance(node, ast.Import) for alias in node.names}
        used |= {node.module for node in names if isinstance(node, ast.ImportFrom) and node.module}
        assert not used & modules, path
        assert "torch.load" not in {ast.unparse(node) for node in names if isinstance(node, ast.Attribute)}, path
