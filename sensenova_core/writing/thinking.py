"""Reasoning about a picture before it is drawn."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..reading.prefix import BLOCK_TOKENS
from ..reading.prompt import Conditioning, PromptBuilder
from ..reading.reader import Reader
from ..reading.tokenizer import THINK_END, TURN_END
from ..settings import CONDITION, DecodingSettings
from .decode import Choose, TextStream, decode
from .pen import Pen


@dataclass(frozen=True, eq=False)
class Thought:
    """Reasoning as far as it has been written. piece: what is new; text: all so far; tokens: how many that is.

    conditioning: of the last one, the prompt with the reasoning inside, ready to draw; None before.
    """

    piece: str
    text: str
    tokens: int
    conditioning: Conditioning | None = None

    @property
    def closed(self) -> bool:
        """Whether the reasoning came to its own end, rather than to the limit or the end of the turn."""
        return self.text.endswith(THINK_END)


def think(
    reader: Reader, prompts: PromptBuilder, conditioning: Conditioning, *, settings: DecodingSettings, choose: Choose
) -> Iterator[Thought]:
    """Write reasoning between prompt and image, token by token. What was read on the way is remembered.

    The reasoning ends with </think>, with the end of the turn (which is not read), or at the limit; only the branch of
    the full prompt sees it.
    """
    asked, special = prompts.thinking(conditioning), prompts.tokenizer.ids
    context, hidden = reader.open(asked, BLOCK_TOKENS)
    stop, last = {special[TURN_END]}, {special[THINK_END]}
    limit = min(settings.max_tokens, prompts.room_after(asked))
    stream = TextStream(prompts.tokenizer.decode)
    ids: list[int] = []
    text = ""
    for chosen in decode(Pen(reader, context, hidden), choose=choose, stop=stop, last=last, limit=limit):
        if chosen.read:
            ids.append(chosen.token)
            piece = stream.push(chosen.token)
            text += piece
            yield Thought(piece, text, len(ids))
    ready = prompts.thought(asked.followed_by(ids))
    reader.read_on(context, ready)
    reader.remembered.prefixes.put(reader.key(ready), context.prefix())
    whole = prompts.tokenizer.decode(ids)
    told = replace(conditioning, sequences=conditioning.sequences | {CONDITION: ready}, think_text=whole)
    yield Thought(piece=stream.rest(), text=whole, tokens=len(ids), conditioning=told)
