"""Reasoning about a picture before it is drawn."""

from collections.abc import Callable
from dataclasses import replace

from ..drawing.flow import CONDITION
from ..reading.prefix import BLOCK_TOKENS
from ..reading.prompt import Conditioning, PromptBuilder
from ..reading.reader import Reader
from ..reading.tokenizer import THINK_END, TURN_END
from ..settings import DecodingSettings
from .decode import Choose, TextStream, decode


def think(
    reader: Reader,
    prompts: PromptBuilder,
    conditioning: Conditioning,
    settings: DecodingSettings,
    choose: Choose,
    on_text: Callable[[str], None],
) -> Conditioning:
    """The same conditioning with reasoning between prompt and image. What was read on the way is remembered.

    The reasoning ends with </think>, with the end of the turn (which is not read), or at the limit; only the branch of
    the full prompt sees it. on_text gets the text as it comes.
    """
    asked, special = prompts.thinking(conditioning), prompts.tokenizer.ids
    context, hidden = reader.open(asked, BLOCK_TOKENS)
    stream, ids = TextStream(prompts.tokenizer.decode), []
    limit = min(settings.max_tokens, prompts.room_after(asked))
    for chosen in decode(reader, context, hidden, choose, {special[TURN_END]}, {special[THINK_END]}, limit):
        if chosen.read:
            ids.append(chosen.token)
            on_text(stream.push(chosen.token))
    on_text(stream.rest())
    ready = prompts.thought(asked.followed_by(ids))
    reader.read_on(context, ready)
    reader.remember(ready, context.prefix())
    return replace(
        conditioning,
        sequences=conditioning.sequences | {CONDITION: ready},
        think_text=prompts.tokenizer.decode(ids),
    )
