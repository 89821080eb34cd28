"""Where and how a run computes: device, precision, memory format, compiled or not, threads."""

import ctypes
import importlib.metadata
import logging
import os
import platform
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import torch
from lightning_fabric import Fabric
from torch import nn

from superconv.errors import UserError
from superconv.files import make_native
from superconv.training.world import join, size, strategy

Precision = Literal["64-true", "32-true", "bf16-mixed", "16-mixed"]
CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
_PRECISIONS: dict[str, Precision] = {
    "fp64": "64-true",
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


@dataclass(frozen=True, kw_only=True)
class ExecutionPlan:
    """An execution plan changes how fast a run is, and its numbers only by rounding; it is never part of a recipe.

    >>> import superconv
    >>> superconv.ExecutionPlan.choose(device="cpu", plan="bf16,channels_last,threads=2").words
    'bf16,channels_last,eager,threads=2'
    """

    device: str = "cpu"
    """`cpu`, `cuda` or `cuda:i`."""
    precision: Precision = "32-true"
    channels_last: bool = True
    compiled: CompileMode | None = None
    """Mode of torch.compile, none for eager; on CUDA, `reduce-overhead` and `max-autotune` replay CUDA graphs."""
    threads: int | None = None
    """Threads of one process on the CPU; none leaves torch's choice."""

    def __post_init__(self) -> None:
        make_native(self)

    @classmethod
    def choose(cls, *, device: str = "auto", plan: str | None = None) -> Self:
        """The plan for a device, with the words of `plan` (such as `bf16,channels_last,eager`) on top.

        Without words: fp32 and channels-last on the CPU, bf16 on a GPU that has it.

        Raises:
            UserError: The device is not there, or a word is unknown.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        _check_device(device)
        chosen = cls(device=device)
        if device.startswith("cuda") and computes_bf16(device):
            chosen = replace(chosen, precision="bf16-mixed")
        for word in (plan or "").split(","):
            chosen = replace(chosen, **_meaning(word.strip()))
        if chosen.precision == "16-mixed" and not device.startswith("cuda"):
            raise UserError("fp16 needs a CUDA device; on the CPU use bf16 or fp32")
        return chosen

    @property
    def words(self) -> str:
        """The plan as `--plan` takes it."""
        precision = next(word for word, meaning in _PRECISIONS.items() if meaning == self.precision)
        memory = "channels_last" if self.channels_last else "channels_first"
        threads = [f"threads={self.threads}"] if self.threads else []
        compiled = {None: "eager", "default": "compiled"}.get(self.compiled, f"compiled={self.compiled}")
        return ",".join([precision, memory, compiled, *threads])

    def fabric(self, model: nn.Module | None = None, *, alone: bool = False) -> Fabric:
        """Launch Fabric for this plan: one process, or, unless `alone`, the world that torchrun made, to train a model.

        Raises:
            UserError: One GPU for several processes, or not all processes have come.
        """
        world = 1 if alone else size()
        local = 1 if alone else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if world > 1 and ":" in self.device:
            raise UserError(f"{self.device} names one GPU, but torchrun started {world} processes: use --device cuda")
        index = self.device.partition(":")[2]
        if alone and self.device == "cuda":
            index = os.environ.get("LOCAL_RANK", "0")
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces what the plan already says
        fabric = Fabric(
            accelerator=self.device.partition(":")[0],
            devices=[int(index)] if index else local,
            num_nodes=world // local,
            strategy=strategy(model) if world > 1 else "auto",
            precision=self.precision,
        )
        if world > 1:
            join("gloo" if self.device == "cpu" else "nccl")
        fabric.launch()
        if self.device == "cpu":
            _keep_freed_memory()
            if self.threads:
                torch.set_num_threads(self.threads)
        else:
            torch.backends.cudnn.benchmark = True
        return fabric


def computes_bf16(device: str) -> bool:
    """Whether a CUDA device has bf16 instructions; those before Ampere only imitate it."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def versions() -> dict[str, str]:
    """Versions of what decides the numbers of a run."""
    return {
        "superconv": importlib.metadata.version("superconv"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def machine(device: str) -> str:
    """The machine in a few words: the GPU's name, or cores, their widest vector instructions and threads."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(device))
    cores = f"{os.cpu_count()} {platform.machine()} cores ({torch.backends.cpu.get_cpu_capability()})"
    return f"{cores}, {torch.get_num_threads()} threads"


def _keep_freed_memory() -> None:
    """Tell glibc's malloc to hand nothing back to the kernel, for the rest of the process.

    It gives every large block back at once, so that each update faults in the pages of its activations anew: 5 to 10 %
    of a ResNet-20's time in fp32.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)


def _check_device(device: str) -> None:
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and (kind == "cpu" or not index.isdecimal())):
        raise UserError(f"there is no device {device!r}: use auto, cpu, cuda or cuda:0")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {device} is not there: torch sees {torch.cuda.device_count()} GPUs; use --device cpu")


def _meaning(word: str) -> dict[str, Any]:
    if word in ("", "auto"):
        return {}
    if word in _PRECISIONS:
        return {"precision": _PRECISIONS[word]}
    if word in ("channels_last", "channels_first"):
        return {"channels_last": word == "channels_last"}
    if word in ("eager", "compiled"):
        return {"compiled": "default" if word == "compiled" else None}
    if word.startswith("compiled=") and word[9:] in get_args(CompileMode):
        return {"compiled": word[9:]}
    if word.startswith("threads=") and word[8:].isdecimal() and int(word[8:]):
        return {"threads": int(word[8:])}
    raise UserError(
        f"a plan has no word {word!r}: use {', '.join(_PRECISIONS)}, channels_last, channels_first, eager, compiled, "
        f"compiled=MODE ({', '.join(get_args(CompileMode))}) or threads=N"
    )
