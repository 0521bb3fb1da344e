"""Names of devices and of the types that weights run in."""

import torch

from ..errors import SettingsError, quoted
from ..settings import DTYPES

TORCH_DTYPES = {name: getattr(torch, name) for name in DTYPES}


def device_named(name: str | torch.device) -> torch.device:
    """The device of a name such as "cpu" or "cuda:1". Raises SettingsError if this machine has none such."""
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("meta holds no values")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or ["there is none such"])[0][:200]
        called = name if isinstance(name, str) and len(name) <= 100 else quoted(name)
        raise SettingsError(
            f"{called}: {reason}", "choose cpu, or a device this machine has", setting="device", value=name
        ) from None  # torch's own error quotes the name with letters that no terminal prints
    return device
