"""Edit a picture, edited.png, and ask what is to be seen on it."""

from PIL import Image, ImageDraw

import sensenova_core

engine = sensenova_core.load(sensenova_core.DEMO)
photo = Image.new("RGB", (128, 128), "white")
ImageDraw.Draw(photo).ellipse((34, 34, 94, 94), fill="red")
*_, step = engine.sample(engine.encode("make the circle purple", [photo]), steps=20, seed=1)
edited = Image.fromarray((step.image()[0] * 255).round().byte().numpy())
edited.save("edited.png")
for answer in engine.understand("describe this picture", [edited]):
    print(answer.piece, end="", flush=True)
