"""`sensenova plan`: what a picture will take, before it is drawn, here or on another card."""

from ..errors import check_count
from .models import add_device_options, add_memory_options, add_model_option, best_area, pick_device, resolve_model


def add_parser(commands) -> None:
    parser = commands.add_parser("plan", help="say what a picture will need of memory; reads no weight")
    add_model_option(parser)
    add_device_options(parser)
    add_memory_options(parser)
    parser.add_argument("--width", type=int, help="pixels (default: what the model draws best)")
    parser.add_argument("--height", type=int, help="pixels (default: what the model draws best)")
    parser.add_argument("--batch-size", type=int, default=1, help="images of each prompt (default: 1)")
    parser.add_argument("--num-steps", type=int, default=50, help="denoising steps (default: 50)")
    parser.add_argument("--cfg-scale", type=float, default=4.0, help="1 needs one pass a step, more need two")
    parser.add_argument("--img-cfg-scale", type=float, default=1.0, help="for an edit; other than 1 needs three passes")
    parser.add_argument("--num-images", type=int, default=0, help="images to edit, 0 to 10 (default: 0)")
    parser.add_argument("--max-think-tokens", type=int, default=0, help="of reasoning before drawing (default: none)")
    parser.add_argument("--card", default="", metavar="SIZE", help="plan for a card with so much free, such as 11GiB")
    parser.add_argument("--ram", default="", metavar="SIZE", help="plan for so much free system memory, such as 24GiB")
    parser.set_defaults(run=run, default=parser.get_default)


def run(options) -> int:
    from ..images import MAX_IMAGES

    check_count("num_images", options.num_images, 0, MAX_IMAGES)
    check_count("max_think_tokens", options.max_think_tokens, 0)
    from ..engine import Engine
    from ..flow import Guidance
    from ..sampling import SamplingSettings
    from ..sizes import square_size

    best = square_size(best_area(options.model))
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
    print(engine.explain(settings, options.num_images, options.max_think_tokens, options.card, options.ram))
    return 0
