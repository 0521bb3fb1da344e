"""`sensenova plan`: what a task will take, before it is run, here or on another card."""

from .models import (
    add_device_options,
    add_lora_option,
    add_memory_options,
    add_model_option,
    best_area,
    parse_lora,
    pick_device,
    resolve_model,
    warn_of_loras,
)
from .options import warn_without_effect

DRAWING = ("width", "height", "batch_size", "num_steps", "cfg_scale", "img_cfg_scale", "max_think_tokens")


def add_parser(commands) -> None:
    parser = commands.add_parser("plan", help="say what a task will need of memory; reads no weight")
    add_model_option(parser)
    add_device_options(parser)
    add_memory_options(parser)
    add_lora_option(parser)
    parser.add_argument(
        "--task",
        choices=("draw", "understand", "interleave"),
        default="draw",
        help="draw: a picture, or with --num-images an edit; understand: an answer; interleave: a document as far as "
        "its first picture (default: draw)",
    )
    parser.add_argument("--width", type=int, help="pixels (default: what the model draws best)")
    parser.add_argument("--height", type=int, help="pixels (default: what the model draws best)")
    parser.add_argument("--batch-size", type=int, default=1, help="images of each prompt (default: 1)")
    parser.add_argument("--num-steps", type=int, default=50, help="denoising steps (default: 50)")
    parser.add_argument("--cfg-scale", type=float, default=4.0, help="1 needs one pass a step, more need two")
    parser.add_argument("--img-cfg-scale", type=float, default=1.0, help="for an edit; other than 1 needs three passes")
    parser.add_argument("--num-images", type=int, default=0, help="images to edit or read, 0 to 10 (default: 0)")
    parser.add_argument("--max-think-tokens", type=int, default=0, help="of reasoning before drawing (default: none)")
    parser.add_argument("--max-tokens", type=int, default=512, help="of an answer (default: 512)")
    parser.add_argument("--prompt-tokens", type=int, default=400, help="with the system message (default: 400)")
    parser.add_argument("--card", default="", metavar="SIZE", help="plan for a card with so much free, such as 11GiB")
    parser.add_argument("--ram", default="", metavar="SIZE", help="plan for so much free system memory, such as 24GiB")
    parser.set_defaults(run=run, default=parser.get_default)


def run(options) -> int:
    useless = DRAWING if options.task == "understand" else ("max_tokens",)
    warn_without_effect(options, useless, f"with --task {options.task}")
    from ..drawing.sizes import best_size
    from ..engine import Engine
    from ..settings import ForecastSettings, Guidance, SamplingSettings

    best = best_size(best_area(options.model), document=options.task == "interleave")
    settings = SamplingSettings(
        best[0] if options.width is None else options.width,
        best[1] if options.height is None else options.height,
        options.num_steps,
        Guidance(options.cfg_scale, options.img_cfg_scale),
        batch_size=options.batch_size,
    )
    engine = Engine(
        resolve_model(options.model),
        pick_device(options.device),
        options.dtype,
        "auto",
        options.vram_mode,
        options.max_memory,
    )
    engine.use_loras([parse_lora(text) for text in options.lora])
    warn_of_loras(engine, options)
    asked = ForecastSettings(
        task=options.task,
        images=options.num_images,
        think_tokens=options.max_think_tokens,
        max_tokens=options.max_tokens,
        prompt_tokens=options.prompt_tokens,
        card=options.card,
        ram=options.ram,
    )
    print(engine.forecast(settings, asked))
    return 0
