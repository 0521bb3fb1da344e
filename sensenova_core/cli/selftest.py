"""`sensenova selftest`: whether this machine computes what it should."""

import os
import sys

from .models import pick_device

RED, PLAIN = "\x1b[31m", "\x1b[0m"


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "selftest",
        help="hold this machine against float32: types, rotary, masks, attention backends, INT8, FP8, copies",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.set_defaults(run=run)


def run(options) -> int:
    """1 if anything is wrong."""
    from .. import selftest

    device, found = pick_device(options.device), []
    print(selftest.machine(device), "", selftest.titles(), sep="\n")
    for each in selftest.outcomes(selftest.all_checks(device)):
        line = selftest.line(each, found[-1] if found else None)
        print(_red(line) if each.verdict == selftest.WRONG else line, flush=True)
        found.append(each)
    wrong = any(each.verdict == selftest.WRONG for each in found)
    summary = selftest.summary(found)
    print("", _red(summary) if wrong else summary, sep="\n")
    return int(wrong)


def _red(text: str) -> str:
    """Where a terminal shows it."""
    return f"{RED}{text}{PLAIN}" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text
