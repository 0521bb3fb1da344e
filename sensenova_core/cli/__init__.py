"""The command line: `sensenova generate`, `chat`, `interleave`, `inspect`, `plan`, `download`, `queue`,
`selftest`."""

import argparse
import logging
import sys

from .. import __version__
from ..errors import SenseNovaError, SettingsError, missing_package, out_of_memory
from . import chat, download, generate, inspect, interleave, plan, queue, selftest
from .errors import message, smaller
from .streams import lasting


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit status. A user's mistake is one line on standard error and status 1.

    Ctrl-C is 130. Readers of what is printed may go away: that is no mistake, and what is drawn is drawn to its end.
    """
    try:
        with lasting() as streams:
            return _run(arguments) or streams.status()
    except KeyboardInterrupt:
        return 130


def _run(arguments: list[str] | None) -> int:
    logging.basicConfig(format="sensenova: %(levelname)s: %(message)s", level=logging.WARNING)
    for name in ("sensenova_core.memory.placement", "sensenova_core.cli", "sensenova_core.queueing"):
        logging.getLogger(name).setLevel(logging.INFO)  # which say what was found, and what "auto" has picked
    options = _parsed(sys.argv[1:] if arguments is None else arguments)
    logging.getLogger("sensenova_core").setLevel(logging.INFO if options.verbose else logging.NOTSET)
    try:
        return options.run(options)
    except SettingsError as error:
        return _failed(message(error, options))
    except (SenseNovaError, OSError) as error:  # a full disk, say
        return _failed(str(error))
    except ImportError as error:
        return _failed(missing_package(error))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return _failed(f"out of memory; try --vram-mode low, and {smaller(options)}")
    except KeyboardInterrupt:
        print("sensenova: interrupted", file=sys.stderr)
        raise


def _failed(message: str) -> int:
    print(f"sensenova: error: {message}", file=sys.stderr)
    return 1


class _Parser(argparse.ArgumentParser):
    """Remembers its flags."""

    def __init__(self, *args, **kwargs):
        self.flags: list[str] = []
        super().__init__(*args, **kwargs)

    def add_argument(self, *names, **settings):
        self.flags += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **settings)


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="sensenova", description="SenseNova-U1, U1.5 and U1.6: draw, edit, ask, write illustrated documents."
    )
    parser.add_argument("--version", action="version", version=f"sensenova {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (generate, chat, interleave, inspect, plan, download, queue, selftest):
        command.add_parser(commands)
    for command in commands.choices.values():
        command.add_argument("--verbose", action="store_true", help="say more: files, loading, first copies")
    flags = {flag for command in commands.choices.values() for flag in command.flags}
    return parser.parse_args([_dashed(argument, flags) for argument in arguments])


def _dashed(argument: str, flags: set[str]) -> str:
    """--cfg_scale=4 -> --cfg-scale=4: the reference's tools spell flags with underscores. Whatever begins no flag is a
    value, and stays."""
    name, equals, value = argument.partition("=")
    dashed = name.replace("_", "-")
    known = name.startswith("--") and any(flag.startswith(dashed) for flag in flags)
    return dashed + equals + value if known else argument
