"""`sensenova plan`: what a task will take, before it is run, here or on another card."""

from ..settings import ForecastSettings, SamplingSettings
from .models import add_lora_option, add_model_option, add_running_settings, best_area, engine_of, warn_of_loras
from .options import add_settings, given, option_of, warn_without_effect

# What a plan asks of a picture; the rest changes nothing of its memory.
DRAWING = ("width", "height", "batch_size", "crop", "steps", "cfg", "img_cfg")


def add_parser(commands) -> None:
    parser = commands.add_parser("plan", help="say what a task will need of memory; reads no weight")
    add_model_option(parser)
    add_running_settings(parser, but=("attention",))
    add_lora_option(parser)
    add_settings(parser, SamplingSettings, *DRAWING)
    add_settings(parser, ForecastSettings)
    parser.set_defaults(run=run, default=parser.get_default)


def run(options) -> int:
    drawing = [option_of(name) for name in (*DRAWING, "think_tokens")]
    useless = drawing if options.task == "understand" else ["max_tokens"]
    warn_without_effect(options, useless, f"with --task {options.task}")
    from ..drawing.sizes import best_size

    best = best_size(best_area(options.model), document=options.task == "interleave")
    values = given(options, SamplingSettings)
    sides = {name: side for name, side in zip(("width", "height"), best, strict=True) if values[name] is None}
    settings = SamplingSettings.of(**values | sides)
    engine = engine_of(options)
    warn_of_loras(engine, options)
    print(engine.forecast(settings, **given(options, ForecastSettings)))
    return 0
