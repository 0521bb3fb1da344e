"""`sensenova inspect`: where a checkpoint's parameters are."""

from dataclasses import replace

from .models import add_model_option, resolve_model

DEFAULT_GROUPS = ["shared"]


def add_parser(commands) -> None:
    parser = commands.add_parser("inspect", help="count a checkpoint's parameters; reads no weight")
    add_model_option(parser)
    parser.add_argument(
        "--dtype",
        default="bfloat16",
        help="what the memory column is counted in: float32, float16, bfloat16 (default: bfloat16)",
    )
    parser.add_argument(
        "--show-groups",
        nargs="*",
        default=DEFAULT_GROUPS,
        metavar="GROUP",
        help='groups to list the members of; "all" for every one, "" for none (default: shared)',
    )
    parser.add_argument(
        "--custom-groups-json", metavar="FILE", help='{"group": ["prefix", ...]} in place of the default groups'
    )
    parser.set_defaults(run=run)


def run(options) -> int:
    from ..report import inspect as core

    groups = core.read_custom_groups(options.custom_groups_json) if options.custom_groups_json else None
    inspection = replace(core.inspect(resolve_model(options.model), groups), model=options.model)
    asked = tuple(name for part in options.show_groups for name in part.replace(",", " ").split())
    if groups is not None and options.show_groups is DEFAULT_GROUPS:
        asked = ()  # nobody asked for "shared", which need not exist among custom groups
    print(core.report(inspection, options.dtype, asked))
    return 0
