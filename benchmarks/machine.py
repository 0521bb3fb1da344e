"""What a benchmark ran on: date, device and versions, for its result file."""

import platform
from datetime import datetime, timezone

import torch

import sensenova_core


def machine(device: torch.device) -> dict:
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sensenova_core": sensenova_core.__version__,
    }
