"""A table of jobs: CSV or TSV, whose first line names the columns, or JSON lines, whose keys are the columns."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SettingsError, quoted

_DELIMITERS = ",;\t"  # what spreadsheets write, by their country


@dataclass(frozen=True)
class Line:
    """number: as an editor counts it, from 1. values: column -> cell; of CSV and TSV all are text, and empty cells
    are left out."""

    number: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Table:
    path: Path
    columns: tuple[str, ...]
    lines: tuple[Line, ...]

    def error(self, line: int, problem: str, column: str | None = None) -> SettingsError:
        """What is wrong with a line, or with a cell of it."""
        cell = "" if column is None else f", column {column}"
        return SettingsError(f"{self.path}, line {line}{cell}: {problem}")


def read_table(path: Path) -> Table:
    """Raises SettingsError naming the line."""
    if path.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        raise SettingsError(f"{path}: {quoted(path.suffix)} is no table's ending; give a .csv, .tsv or .jsonl file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error
    empty = Table(path, (), ())
    lines = tuple(_json_lines(empty, text) if path.suffix.lower() == ".jsonl" else _csv_lines(empty, text))
    if not lines:
        raise SettingsError(f"{path}: no line with values in it; write a job a line")
    columns = dict.fromkeys(column for line in lines for column in line.values)
    return Table(path, tuple(columns), lines)


def _json_lines(table: Table, text: str) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise table.error(number, f"not JSON ({error})") from error
        if not isinstance(values, dict):
            raise table.error(number, 'expected an object, such as {"prompt": "a star", "seed": 7}')
        yield Line(number, {column: value for column, value in values.items() if value is not None})


def _csv_lines(table: Table, text: str) -> Iterator[Line]:
    head = text.partition("\n")[0]
    delimiter = "\t" if table.path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=head.count)
    # Not by splitlines: it ends lines at U+2028 and the like too, which may stand in a cell.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    begin = 1  # the line that a row begins in: a quoted cell may have several
    try:
        for row in reader:
            number, begin = begin, reader.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if not columns:
                columns = _header(table, row)
            elif len(row) > len(columns):
                problem = f"{len(row)} cells for {len(columns)} columns; put quotes around a cell with a comma in it"
                raise table.error(number, problem)
            else:
                cells = zip(columns, row, strict=False)
                yield Line(number, {column: cell for column, cell in cells if column and cell.strip()})
    except csv.Error as error:
        raise table.error(reader.line_num, f"not CSV ({error})") from error


def _header(table: Table, row: list[str]) -> list[str]:
    columns = [cell.strip() for cell in row]
    if double := next((column for column in columns if column and columns.count(column) > 1), None):
        raise table.error(1, f"two columns are called {quoted(double)}; rename one")
    return columns
