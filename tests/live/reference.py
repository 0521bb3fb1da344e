"""Draw what a workflow in API form should give, with the engine alone: python reference.py MODELS < API > PIXELS

Run by ComfyUI's interpreter, so that both have the same torch. Only the wiring of the text-to-image workflow is known.
"""

import json
import sys
from pathlib import Path

import sensenova_core
from sensenova_core.sizes import TRAINED_SIZES


def draw(api: dict, models: Path) -> bytes:
    """The pixels of the image, in the 8 bits that ComfyUI's Save Image node writes."""
    inputs = {node["class_type"].removeprefix("SenseNovaCore"): node["inputs"] for node in api.values()}
    loader, size, sampler = inputs["Loader"], inputs["Resolution"], inputs["FlowMatchSampler"]
    width, height = TRAINED_SIZES.get(size["size"]) or (size["size.width"], size["size.height"])
    settings = {name: value for name, value in sampler.items() if not isinstance(value, list)}
    settings["cfg_interval"] = (settings.pop("cfg_start"), settings.pop("cfg_end"))
    engine = sensenova_core.load(models / loader["checkpoint"], dtype=loader["dtype"])
    conditioning = engine.encode(inputs["TextEncode"]["prompt"])
    steps = list(engine.sample(conditioning, **settings | {"width": width, "height": height}))
    return (255 * steps[-1].image()[0]).clamp(0, 255).byte().numpy().tobytes()


if __name__ == "__main__":
    print(draw(json.load(sys.stdin), Path(sys.argv[1])).hex())
