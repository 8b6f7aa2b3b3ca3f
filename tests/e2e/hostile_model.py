"""A model that brings whatever could make a loader run code; each piece leaves a mark where it runs."""

import json
import pickle
import subprocess
from pathlib import Path

# Code that some loader looks for, beside names that Python itself would import from its working directory.
_CODE = (
    "configuration_evil.py",
    "custom_generate/generate.py",
    "modeling_evil.py",
    "sitecustomize.py",
    "tokenization_evil.py",
    "torch.py",
    "usercustomize.py",
)
_PICKLES = ("adapter_model.bin", "optimizer.pt", "pytorch_model.bin", "training_args.bin")


class Touch:
    """Unpickled it makes the file *mark*."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return subprocess.call, (["touch", str(self._mark)],)


def hostile_files(model: Path, marks: Path) -> dict[str, bytes]:
    """The files of *model*, which works, and beside them those that leave a file in *marks* where they are run."""
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    for name in _CODE:
        files[name] = f"open({str(marks / Path(name).name)!r}, 'w')\n".encode()
    for name in _PICKLES:
        files[name] = pickle.dumps(Touch(marks / name))
    tokenizer = json.loads(files["tokenizer_config.json"])
    tokenizer["auto_map"] = {"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]}
    files["tokenizer_config.json"] = json.dumps(tokenizer).encode()
    files[".env"] = b"JOB_SEED=666\n"
    return files
