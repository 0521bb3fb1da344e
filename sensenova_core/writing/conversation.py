"""Questions about images, and conversations."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..reading.prefix import BLOCK_TOKENS
from ..reading.prompt import PromptBuilder, TokenSequence
from ..reading.reader import Reader
from ..reading.tokenizer import TURN_END
from ..settings import DecodingSettings
from .decode import Choose, TextStream, decode
from .pen import Pen


@dataclass(frozen=True)
class Answer:
    """An answer as far as it has been written. piece: what is new; text, ids: all so far.

    ended: None while it goes on, then "end", "cut" (by the token limit) or "context" (it is full). The last text is
    stripped.
    """

    piece: str
    text: str
    ids: tuple[int, ...]
    ended: str | None


def answer(
    reader: Reader, prompts: PromptBuilder, conversation: TokenSequence, *, settings: DecodingSettings, choose: Choose
) -> Iterator[Answer]:
    """Answer a conversation, token by token. Only what differs from the conversation remembered is read."""
    limit = min(settings.max_tokens, prompts.room_after(conversation))
    context, hidden = reader.resume(conversation, BLOCK_TOKENS, limit)
    stop = {prompts.tokenizer.ids[TURN_END]}
    stream = TextStream(prompts.tokenizer.decode)
    ids: list[int] = []
    text = ""
    ended = "cut" if limit == settings.max_tokens else "context"
    for chosen in decode(Pen(reader, context, hidden), choose=choose, stop=stop, limit=limit):
        if not chosen.read:
            ended = "end"
            break
        ids.append(chosen.token)
        piece = stream.push(chosen.token)
        text += piece
        yield Answer(piece=piece, text=text, ids=tuple(ids), ended=None)
    reader.remembered.conversation = conversation.followed_by(ids), context
    whole = prompts.tokenizer.decode(ids).strip()
    yield Answer(piece=stream.rest(), text=whole, ids=tuple(ids), ended=ended)
