"""Runs of a model of real size on a pretended card: every launch, copy and wait of them, and no number."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from PIL import Image

import sensenova_core
from sensenova_core import DecodingSettings, DocumentSettings, Engine, ModelConfig, SamplingSettings
from sensenova_core.checkpoint import checkpoint_name
from sensenova_core.model import SenseNovaU1
from sensenova_core.writing.decode import chooser
from tests.model.test_full_size import MODELS, config_json
from tests.support.geometries import TOKENIZER

from .card import H200, Card, Model
from .driver import pretended

INSTRUCTIONS = "x" * 375  # of a token each: with the prompt about 400, as many as the real ones
PROMPT = "a red house by the sea"
REFERENCE = 2048  # pixels a side


def write_holes(folder: Path, name: str = "U1-8B-MoT", layers: int | None = None) -> Path:
    """A checkpoint of a published model's geometry in bfloat16: headers, and a file that is one hole. layers: fewer."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = config_json(*MODELS[name][:3])
    config["llm_config"]["num_hidden_layers"] = layers or config["llm_config"]["num_hidden_layers"]
    header, end = {}, 0
    for parameter, value in SenseNovaU1.on_meta(ModelConfig.from_dict(config)).named_parameters():
        begin, end = end, end + 2 * value.numel()
        place = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [begin, end]}
        header[checkpoint_name(parameter)] = place
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    TOKENIZER.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


class Walk:
    """One engine on a card of its own. plans: of all its runs.

    Parts of a run are noted by name: "begun" until the first result is there, then "step 1" and so on, up to "shown";
    "token 0" and so on, each from one choice to the next.
    """

    def __init__(self, engine: Engine, card: Card):
        self.engine, self.card = engine, card
        self.plans = []
        engine.memory.planned = self.plans.append

    def draw(self, *, references: int = 0, side: int = 2048, steps: int = 3, batch: int = 1) -> None:
        """A picture, or an edit of so many of the largest references."""
        conditioning = self.engine.encode(PROMPT, pictures(references))
        self._draw(conditioning, SamplingSettings(side, side, steps, batch_size=batch))

    def _draw(self, conditioning, settings: SamplingSettings) -> None:
        self.card.begin("begun")
        drawn = iter(self.engine.denoise(conditioning, settings))
        for index in range(1, settings.steps + 1):
            step = next(drawn)
            self.card.begin(f"step {index}" if index < settings.steps else "shown")
        step.image().cpu()

    def think(self, tokens: int, *, references: int = 0, side: int = 2048, steps: int = 1) -> None:
        """Reason in so many tokens, and draw by it."""
        self.card.begin("begun")
        asked = self.engine.encode(PROMPT, pictures(references))
        *_, thought = self.engine.think(asked, DecodingSettings(tokens), choose=self._noting_tokens(tokens))
        self._draw(thought.conditioning, SamplingSettings(side, side, steps))

    def answer(self, tokens: int, *, references: int = 0, question: str = "what is it?") -> None:
        self.card.begin("begun")
        shown, settings = pictures(references), DecodingSettings(tokens)
        for _ in self.engine.understand(question, shown, settings=settings, choose=self._noting_tokens(tokens)):
            pass

    def document(self, images: int, *, side: int = 1536, steps: int = 1, words: int = 4) -> None:
        """So many pictures, and a few words before each and after the last."""
        self.card.begin("document")
        named = self.engine.tokenizer.ids
        paragraph = [1] * words
        script = [*([*paragraph, named["<img>"]] * images), *paragraph, named["<|im_end|>"]]
        settings = DocumentSettings(SamplingSettings(side, side, steps), max_images=images)
        for _ in self.engine.interleave(PROMPT, (), settings=settings, choose=lambda _, before: script[len(before)]):
            pass

    def _noting_tokens(self, most: int):
        choose = chooser(DecodingSettings(most))

        def noting(logits, before: list[int]) -> int:
            self.card.begin(f"token {len(before)}")
            return choose(logits, before)

        return noting

    @property
    def planned(self) -> int:
        """Bytes of the card, of the largest plan."""
        return max(plan.device_bytes for plan in self.plans)

    @property
    def reserved(self) -> int:
        """Bytes that the allocator had at the most."""
        return self.card.allocator.most["reserved"]


def pictures(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (REFERENCE, REFERENCE), (40 * index, 90, 20)) for index in range(count)]


@contextmanager
def walking(checkpoint: Path, *, model: Model = H200, **settings) -> Iterator[Walk]:
    """settings: of `load`."""
    card = Card(model, meta=True)
    instructions = patch("sensenova_core.reading.prompt.system_message", lambda kind: INSTRUCTIONS)
    with instructions, pretended(card):
        engine = sensenova_core.load(checkpoint, device="cuda:0", **settings)
        try:
            yield Walk(engine, card)
        finally:
            engine.release()
