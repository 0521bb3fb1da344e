"""What a benchmark ran on (date, device, versions), and its result file."""

import argparse
import json
import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
import torch

import sensenova_core


def machine(device: torch.device) -> dict:
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sensenova_core": sensenova_core.__version__,
    }


def save(options: argparse.Namespace, **figures: Any) -> None:
    """Write figures to options.output, with the machine and the options, of which `device` is one, beside them."""
    run = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    result = {"machine": machine(torch.device(options.device)), "run": run, **figures}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(options.output)


def processor_name() -> str:
    """The processor's own name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
