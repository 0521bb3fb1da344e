"""The command line: `sensenova generate`, `chat`, `interleave`, `inspect`."""

import argparse
import io
import logging
import sys

from .. import __version__
from ..errors import SenseNovaError
from . import chat, generate, inspect, interleave


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit status. A user's mistake is one line on standard error and status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without the letters of an answer must not end it
    logging.basicConfig(format="sensenova: %(levelname)s: %(message)s", level=logging.WARNING)
    parser = argparse.ArgumentParser(
        prog="sensenova", description="SenseNova-U1 and U1.5: draw, edit, ask, write illustrated documents."
    )
    parser.add_argument("--version", action="version", version=f"sensenova {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (generate, chat, interleave, inspect):
        command.add_parser(commands)
    options = parser.parse_args([_dashed(argument) for argument in (sys.argv[1:] if arguments is None else arguments)])
    try:
        return options.run(options)
    except SenseNovaError as error:
        print(f"sensenova: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, say
        print(f"sensenova: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sensenova: interrupted", file=sys.stderr)
        return 130


def _dashed(argument: str) -> str:
    """--cfg_scale=4 -> --cfg-scale=4: the reference's tools spell flags with underscores."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value
