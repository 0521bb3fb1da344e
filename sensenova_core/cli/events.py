"""A document's events -> text and progress bars on the terminal, and the document."""

from collections.abc import Iterable

from ..report.pages import Document, DocumentBuilder
from ..writing.document import Drawing, End, Event, Text


def collect(events: Iterable[Event]) -> Document:
    """Print text while it is written and a bar for every picture. Ctrl-C ends a document instead of losing it."""
    from tqdm import tqdm

    builder = DocumentBuilder()
    bar = None
    try:
        for event in events:
            builder.add(event)
            if isinstance(event, Text):
                print(event.text, end="", flush=True)
            elif isinstance(event, Drawing):
                if event.step.index == 0 or bar is None:
                    print(flush=True)
                    bar = tqdm(total=event.step.total, unit="step", desc=f"image {event.index + 1}")
                bar.update()
                if event.step.index + 1 == event.step.total:
                    bar.close()
    except KeyboardInterrupt:
        builder.add(End("interrupted"))
        if bar is not None:
            bar.close()
    print()
    return builder.document()
