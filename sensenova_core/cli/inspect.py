"""`sensenova inspect`: where a checkpoint's parameters are."""

from .. import inspect as core
from .models import add_model_option, resolve_model


def add_parser(commands) -> None:
    parser = commands.add_parser("inspect", help="count a checkpoint's parameters; reads no weight")
    add_model_option(parser)
    parser.add_argument(
        "--dtype", choices=core.DTYPE_BYTES, default="bfloat16", help="what the memory column is counted in"
    )
    parser.add_argument(
        "--show-groups",
        nargs="*",
        default=[core.SHARED],
        metavar="GROUP",
        help='groups to list the members of; "all" for every one, "" for none (default: shared)',
    )
    parser.add_argument(
        "--custom-groups-json", metavar="FILE", help='{"group": ["prefix", ...]} in place of the defaults'
    )
    parser.set_defaults(run=run)


def run(options) -> int:
    groups = core.read_custom_groups(options.custom_groups_json) if options.custom_groups_json else None
    inspection = core.inspect(resolve_model(options.model), groups)
    asked = tuple(name for part in options.show_groups for name in part.replace(",", " ").split())
    if groups is not None and options.show_groups == [core.SHARED] and core.SHARED not in inspection.groups:
        asked = ()  # the default group does not exist among custom ones
    print(core.report(inspection, options.dtype, asked))
    return 0
