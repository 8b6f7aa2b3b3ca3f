"""Whether this machine can carry the job, judged before anything is fetched: all its faults at once, each with its fix.

What is so is read elsewhere (`job.facts.hardware`, `job.disk`, ``job.probe.torch_build``); the judgement is pure.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from job.disk import Disk, disks_used
from job.errors import UnsuitableHost
from job.facts.hardware import SHARED_MEMORY
from job.inspection import Inputs
from job.processes import Child, StopRequest, children_env
from job.records import Gpu, HardwareFacts, TorchBuild
from job.rundir import read_record
from job.spec import JobSpec

# The oldest driver that runs any CUDA of a major version, whatever its minor one (NVIDIA, "CUDA Compatibility", minor
# version compatibility, table 1).
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
# NCCL takes a segment of 9,637,888 bytes for each peer, channel and direction (NVIDIA/nccl issues 525 and 1518), so
# Docker's 64 MB in all are too few for several GPUs without NVLink. As much for each GPU covers the 2 + 2 channels that
# NCCL opens over PCIe, and passes the --shm-size=1g of NCCL's guide ("Runtime and MPI issues") up to 16 GPUs.
_SHM_PER_GPU_GIB = 64 / 1024
# A desktop's screen, an idle process (a CUDA context takes up to half a GiB) or the memory that older drivers reserve
# stay below; who holds more computes, and will want more.
_OCCUPIED_GIB = 1.0


@dataclass(frozen=True)
class Fault:
    """One reason why this machine cannot do the job, and what to do about it."""

    cause: str
    fix: str


def check_machine(spec: JobSpec, inputs: Inputs, env: Mapping[str, str], stop: StopRequest) -> list[Disk]:
    """See that the GPUs that will train and the disks that will be written are fit for it. Returns the disks.

    Raises:
        UnsuitableHost: they are not; the message tells all that is wrong.
        Interrupted: a signal arrived.
    """
    gpus = training_gpus(spec, inputs.hardware.gpus)
    disks = disks_used(spec, inputs)
    faults = [fault for disk in disks for fault in disk_faults(disk)]
    if gpus:
        build = read_torch_build(spec.work_dir, env, stop)
        faults += gpu_faults(inputs.hardware.model_copy(update={"gpus": gpus}), build)
    if faults:
        raise _as_one(faults)
    return disks


def training_gpus(spec: JobSpec, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Those of *gpus* that a plan can use: the first ones, as many as there may be processes."""
    if spec.strategy == "cpu":
        return ()
    return tuple(gpus[: 1 if spec.strategy == "single" else spec.num_processes])


def read_torch_build(work_dir: Path, env: Mapping[str, str], stop: StopRequest) -> TorchBuild:
    """What torch was compiled for, told by a process that imports it: a second or two, once the files are in memory."""
    # A read-only container may have no other place to write, and a refused job leaves nothing behind.
    with TemporaryDirectory(dir=work_dir if os.access(work_dir, os.W_OK) else None) as scratch:
        out = Path(scratch)
        Child("job.probe.torch_build", [out], out / "error.json", out / "log", children_env(env)).wait(stop)
        return read_record(out / "torch_build.json", TorchBuild)


def disk_faults(disk: Disk) -> Iterator[Fault]:
    if disk.needed > disk.free:
        names = " and ".join(setting.partition("=")[0] for setting in disk.settings)
        yield Fault(
            f"The disk of {' and '.join(disk.settings)} has {_size(disk.free)} left; {_size(disk.needed)} are needed.",
            f"Use a machine with more, or point {names} at a larger disk.",
        )


def gpu_faults(hardware: HardwareFacts, build: TorchBuild) -> Iterator[Fault]:
    """What is wrong with the GPUs of *hardware*, of which there is at least one, or between them and *build*."""
    yield from _torch_faults(hardware, build)
    yield from _shared_memory_faults(hardware)
    for gpu in hardware.gpus:
        yield from _occupation_faults(gpu)
        yield from _memory_faults(gpu)


def _torch_faults(hardware: HardwareFacts, build: TorchBuild) -> Iterator[Fault]:
    if build.cuda is None:
        yield Fault(
            f"This machine has {_count(hardware.gpus)}, but torch {build.version} is built without CUDA.",
            "Use the job's image, install a torch with CUDA, or set JOB_STRATEGY=cpu.",
        )
        return
    major = int(build.cuda.partition(".")[0])
    if hardware.cuda and hardware.cuda[0] < major:
        oldest = _OLDEST_DRIVER.get(major, f"one for CUDA {major}")
        yield Fault(
            f"The NVIDIA driver {hardware.driver} runs CUDA {'.'.join(map(str, hardware.cuda))} and older; torch "
            f"{build.version} is built for CUDA {build.cuda}.",
            f"Use a machine whose driver is {oldest} or newer.",
        )
    for gpu in {gpu.compute_capability: gpu for gpu in hardware.gpus}.values():
        if build.archs and not any(runs_on(arch, gpu.compute_capability) for arch in build.archs):
            yield Fault(
                f"torch {build.version} has no code for {gpu.name} (compute capability "
                f"{'.'.join(map(str, gpu.compute_capability))}); it is built for {', '.join(build.archs)}.",
                "Use a GPU of one of these kinds, or an image with a torch that is built for this one.",
            )


def runs_on(arch: str, capability: tuple[int, int]) -> bool:
    """Whether a GPU of *capability* runs code for *arch* (CUDA C++ programming guide, "Compute Capabilities").

    Machine code (sm_80) runs on its own and later minor versions, PTX (compute_80) on everything later. The features
    of sm_90a exist on 9.0 alone, those of sm_100f on 10.x.
    """
    if not (form := re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)):
        return True  # a kind of code that is not known here
    kind, only, built_for = form[1], form[4], (int(form[2]), int(form[3]))
    if only == "a":
        return capability == built_for
    if kind == "compute" and not only:
        return capability >= built_for
    return capability[0] == built_for[0] and capability >= built_for


def _shared_memory_faults(hardware: HardwareFacts) -> Iterator[Fault]:
    needed = len(hardware.gpus) * _SHM_PER_GPU_GIB
    if len(hardware.gpus) > 1 and hardware.shm_gib is not None and hardware.shm_gib < needed:
        yield Fault(
            f"{SHARED_MEMORY} has {hardware.shm_gib * 1024:,.0f} MiB left; NCCL needs {needed * 1024:,.0f} MiB between "
            f"{len(hardware.gpus)} GPUs.",
            "Start the container with --shm-size=1g or --ipc=host; on Kubernetes mount an emptyDir with "
            f"`medium: Memory` at {SHARED_MEMORY}.",
        )


def _occupation_faults(gpu: Gpu) -> Iterator[Fault]:
    if gpu.used_gib > _OCCUPIED_GIB:
        holders = f" by process {', '.join(map(str, gpu.processes))}" if gpu.processes else ""
        yield Fault(
            f"{_name(gpu)} is occupied: {gpu.used_gib:.1f} of its {gpu.memory_gib:.1f} GiB are held{holders}.",
            "End what runs there, or leave that GPU out with CUDA_VISIBLE_DEVICES.",
        )


def _memory_faults(gpu: Gpu) -> Iterator[Fault]:
    """Broken memory (NVIDIA, "GPU memory error management"). Data-centre GPUs go on around a row that waits for its
    replacement, others have nothing to fence it off with; a reset mends both."""
    reset = "Use another machine; on this one `nvidia-smi --gpu-reset` may help."
    if gpu.row_remap == "failed":
        yield Fault(
            f"{_name(gpu)} has broken memory that it could not replace (row remapping failed).",
            "Use another machine; this GPU is due for replacement.",
        )
    elif gpu.row_remap == "pending":
        yield Fault(f"{_name(gpu)} has broken memory that a reset would replace (row remapping is pending).", reset)
    if gpu.ecc_errors:
        errors = f"{gpu.ecc_errors} memory error{'s' * (gpu.ecc_errors > 1)}"
        yield Fault(f"{_name(gpu)} has had {errors} that ECC could not correct.", reset)


def _name(gpu: Gpu) -> str:
    return f"GPU {gpu.index} ({gpu.name})"


def _size(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _count(gpus: Sequence[Gpu]) -> str:
    return f"{len(gpus)} GPU{'s' * (len(gpus) > 1)}"


def _as_one(faults: Iterable[Fault]) -> UnsuitableHost:
    faults = list(faults)
    if len(faults) == 1:
        return UnsuitableHost(faults[0].cause, faults[0].fix)
    lines = [f"  - {fault.cause} {fault.fix}" for fault in faults]
    return UnsuitableHost(
        f"This machine has {len(faults)} faults:\n" + "\n".join(lines), "Use another machine, or mend all of them."
    )
