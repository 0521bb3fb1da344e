from typing import Any

from torch import nn

class ModelType:
    FLOW: Any

class BaseModel(nn.Module):
    model_config: Any
    model_sampling: Any
    diffusion_model: Any
    current_patcher: Any
    def __init__(self, model_config: Any, model_type: Any = ..., device: Any = None) -> None: ...
