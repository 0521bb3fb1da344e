from typing import Any

class BASE:
    latent_format: Any
    def __init__(self, unet_config: dict[str, Any]) -> None: ...
