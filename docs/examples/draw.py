"""Draw a picture with the built-in demo model: draw.png."""

from PIL import Image

import sensenova_core

engine = sensenova_core.load(sensenova_core.DEMO)
conditioning = engine.encode("a big yellow star to the left of a small red circle on a blue background")
for step in engine.sample(conditioning, steps=20, seed=1):
    print(f"step {step.index + 1} of {step.total}")
pixels = step.image()[0]  # float32 (height, width, 3) in 0 .. 1
Image.fromarray((pixels * 255).round().byte().numpy()).save("draw.png")
