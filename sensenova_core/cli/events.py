"""A document's events -> text and progress bars on the terminal, and the document."""

from collections.abc import Iterable, Iterator

from ..report.pages import Document, DocumentBuilder
from ..writing.document import Drawing, End, Event, Text


def collect(events: Iterable[Event]) -> Document:
    """Print text while it is written and a bar for every picture."""
    from tqdm import tqdm

    builder, bar = DocumentBuilder(), None
    for event in _until_interrupted(events):
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
        elif isinstance(event, End):
            print()
    return builder.document()


def _until_interrupted(events: Iterable[Event]) -> Iterator[Event]:
    """Ctrl-C ends a document instead of losing it."""
    try:
        yield from events
    except KeyboardInterrupt:
        yield End("interrupted")
