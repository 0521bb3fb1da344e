"""The events of documents and self-corrections -> text and progress bars on the terminal, and the document."""

import sys
from collections.abc import Iterable, Iterator
from typing import IO

from ..report.pages import Document, DocumentBuilder
from ..writing.document import Drawing, End, Event, Text


def shown(events: Iterable[Event], *, texts: IO[str]) -> Iterator[Event]:
    """The events, once their text is printed on `texts`, and a bar goes on for every picture."""
    from tqdm import tqdm

    bar = None
    try:
        for event in events:
            if isinstance(event, Text):
                print(event.text, end="", flush=True, file=texts)
            elif isinstance(event, Drawing):
                if event.step.index == 0 or bar is None:
                    print(flush=True, file=texts)
                    bar = tqdm(total=event.step.total, unit="step", desc=f"image {event.index + 1}")
                bar.update()
                if event.step.index + 1 == event.step.total:
                    bar.close()
            yield event
    finally:
        if bar is not None:
            bar.close()


def collect(events: Iterable[Event]) -> Document:
    """Print a document while it is made. Ctrl-C ends it instead of losing it."""
    builder = DocumentBuilder()
    try:
        for event in shown(events, texts=sys.stdout):
            builder.add(event)
    except KeyboardInterrupt:
        builder.add(End("interrupted"))
    print()
    return builder.document()
