"""Memory of preparation while the dataset grows.

python bench/memory.py [--gb 1 3]; rows are GSM8K's, numbered so that none comes twice. What is measured is anonymous
memory (Pss_Anon: a page that several processes share is counted once) of all processes of one preparation, above what
its imports take. The Arrow files are mapped, and are no anonymous memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "demo")]

from tiny import train_tokenizer  # noqa: E402

from job.records import DataFile, GateSettings, PrepareTask  # noqa: E402
from job.rundir import write_json  # noqa: E402

GSM8K = ROOT.parent / "shared" / "data" / "gsm8k_train.jsonl"
IMPORTS = (
    "import sys, pathlib; sys.modules['torch'] = None; import job.prepare.story, job.prepare.preview; "
    "print(pathlib.Path('/proc/self/smaps_rollup').read_text())"
)
EVERY_S = 0.2
_MIB = 2**20


def anonymous_mib(smaps_rollup: str) -> float:
    return next(int(line.split()[1]) / 1024 for line in smaps_rollup.splitlines() if line.startswith("Pss_Anon:"))


def tree_mib(process: psutil.Process) -> float:
    """Anonymous memory of *process* and all below it; of those that end meanwhile none."""
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            total += anonymous_mib(Path(f"/proc/{each.pid}/smaps_rollup").read_text())
        except (OSError, StopIteration):
            continue
    return total


def write_rows(path: Path, size: int) -> int:
    rows = [json.loads(line) for line in GSM8K.read_text().splitlines()]
    written = count = 0
    with path.open("w") as file:
        while written < size:
            row = rows[count % len(rows)]
            written += file.write(json.dumps({"text": f"{count} {row['question']} {row['answer']}"}) + "\n")
            count += 1
    return count


def peak_mib(path: Path, tokenizer: Path, processes: int) -> tuple[float, float]:
    """The highest sum over the processes of one preparation, and its seconds."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        out = Path(scratch)
        task = PrepareTask(
            train_files=(DataFile(path=path, name=path.name, identity=""),), tokenizer=tokenizer, tokenizer_identity="",
            columns={}, format=None, response_template=None, max_length=2048, eval_fraction=0.01, seed=1, packing=True,
            gate=GateSettings(bad_rows="fail", max_bad_fraction=0.01, allow=()), processes=processes,
        )  # fmt: skip
        write_json(out / "task.json", task)
        began, peak = time.monotonic(), 0.0
        command = [sys.executable, "-m", "job.prepare", "rows", str(out / "task.json"), str(out)]
        with psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as child:
            while child.poll() is None:
                peak = max(peak, tree_mib(child))
                time.sleep(EVERY_S)
        assert child.returncode == 0, (out / "error.json").read_text()
        return peak, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the memory of preparation.")
    parser.add_argument("--gb", type=float, nargs="+", default=[1, 3])
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    imports = anonymous_mib(
        subprocess.run([sys.executable, "-c", IMPORTS], cwd=ROOT, capture_output=True, text=True).stdout
    )
    print(f"imports take {imports:,.0f} MiB\n| JSONL | rows | above imports | rows/s |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        texts = (text for line in GSM8K.read_text().splitlines() for text in json.loads(line).values())
        train_tokenizer(texts, 32_000, 2048).save_pretrained(folder / "tokenizer")
        for size in args.gb:
            path = folder / "rows.jsonl"
            rows = write_rows(path, int(size * 10**9))
            peak, seconds = peak_mib(path, folder / "tokenizer", args.processes)
            print(f"| {size:g} GB | {rows:,} | {peak - imports:,.0f} MiB | {rows / seconds:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
