"""Draw four pictures of each of two prompts: batch_1_1.png to batch_2_4.png."""

from PIL import Image

import sensenova_core

engine = sensenova_core.load(sensenova_core.DEMO)
for number, prompt in enumerate(["a green ring on a black background", "a small blue heart"], 1):
    *_, step = engine.sample(engine.encode(prompt), steps=20, seed=number, batch_size=4)
    for index, pixels in enumerate(step.image(), 1):
        name = f"batch_{number}_{index}.png"
        Image.fromarray((pixels * 255).round().byte().numpy()).save(name)
        print(name)
