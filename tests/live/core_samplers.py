"""Draw with ComfyUI's own samplers what this pack's sampler draws, and print how far apart they are.

    python core_samplers.py COMFYUI CHECKPOINT OTHER LORA

Run by ComfyUI's interpreter, with the nodes' own classes and no server: so numbers are compared, and passes counted. A
difference is the largest of any pixel, in the model's range of about -1 to 1.
"""

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

folder, checkpoint, other_checkpoint, lora = sys.argv[1:5]
sys.argv[1:] = ["--cpu"]  # what ComfyUI reads
sys.path.insert(0, folder)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.model_management as mm  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.sd  # noqa: E402
import torch  # noqa: E402
from comfy_extras import nodes_custom_sampler as custom  # noqa: E402
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion  # noqa: E402
from comfy_extras.nodes_model_advanced import ModelNoiseScale, ModelSamplingFlux, ModelSamplingSD3  # noqa: E402
from PIL import Image  # noqa: E402

import nodes  # noqa: E402

REPOSITORY = Path(__file__).parents[2]
WIDTH, HEIGHT, STEPS, SEED = 128, 96, 8, 7


def load_pack():
    """The pack as ComfyUI imports it; `nodes` is ComfyUI's own."""
    spec = importlib.util.spec_from_file_location("pack", REPOSITORY / "__init__.py", submodule_search_locations=[])
    spec.submodule_search_locations.append(str(REPOSITORY))
    pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    named = ("nodes.loaded", "nodes.to_comfyui", "sensenova_core")
    return [importlib.import_module(f"pack.{name}") for name in named]


wire, to_comfyui, core = load_pack()


def loaded(path: str = checkpoint, **settings: Any):
    return wire.LoadedEngine(core.load(path, dtype="float32", place=False, **settings))


def outputs(model, conditioning, **changes: Any) -> tuple:
    """model, positive, negative, latent, vae, images only."""
    given = {"width": WIDTH, "height": HEIGHT, "negative": "images only", "batch_size": 1, "shift": 3.0, "t_eps": 0.02}
    return to_comfyui.ToComfyUI.execute(model=model, conditioning=conditioning, **given | changes).args


def ksampler(out: tuple, cfg: float = 4.0, steps: int = STEPS, sampler: str = "euler", **others: Any) -> torch.Tensor:
    model, positive, negative, latent = out[:4]
    given = {"denoise": 1.0, "scheduler": "simple"} | others
    latent = given.pop("latent", latent)
    (drawn,) = nodes.KSampler().sample(
        model, SEED, steps, cfg, sampler, given["scheduler"], positive, negative, latent, given["denoise"]
    )
    return drawn["samples"]


def halves(out: tuple) -> torch.Tensor:
    """By KSampler (Advanced), which hands noise that is left over to another."""
    model, positive, negative, latent = out[:4]
    for noise, start, stop, left in (("enable", 0, 3, "enable"), ("disable", 3, STEPS, "disable")):
        (latent,) = nodes.KSamplerAdvanced().sample(
            model, noise, SEED, STEPS, 4.0, "euler", "simple", positive, negative, latent, start, stop, left
        )
    return latent["samples"]


def advanced(guider, model, latent, sampler: str = "euler", steps: int = STEPS) -> torch.Tensor:
    (sigmas,) = custom.BasicScheduler.execute(model, "simple", steps, 1.0).args
    (chosen,) = custom.KSamplerSelect.execute(sampler).args
    noise = custom.Noise_RandomNoise(SEED)
    return custom.SamplerCustomAdvanced.execute(noise, guider, chosen, sigmas, latent).args[0]["samples"]


def ours(model, conditioning, **changes: Any) -> torch.Tensor:
    """By this pack's sampler; the wire's LoRAs are in use."""
    settings = {"width": WIDTH, "height": HEIGHT, "steps": STEPS, "cfg": 4.0, "seed": SEED} | changes
    *_, last = model.sample(conditioning, core.SamplingSettings.of(**settings))
    return last.pixels()


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def prompts(model) -> dict[str, Any]:
    photo = Image.effect_noise((96, 128), 60).convert("RGB")
    encode = model.engine.encode
    return {
        "text": encode("a red circle"),
        "edit": encode("make it green", [photo]),
        "two references": encode("both of them", [photo, photo.rotate(90, expand=True)]),
        "thought": encode("a red circle", think_text="It should be red, and round."),
    }


def equal(model, asked) -> dict[str, float]:
    seen = {}
    for name, conditioning in asked.items():
        for cfg in (1.0, 4.0):
            seen[f"{name}, cfg {cfg:g}"] = apart(
                ksampler(outputs(model, conditioning), cfg), ours(model, conditioning, cfg=cfg)
            )
    text, edit = asked["text"], asked["edit"]
    for steps in (1, 13, 50, 100):  # of the last two, some are nearer to the end than t_eps
        seen[f"{steps} steps"] = apart(ksampler(outputs(model, text), steps=steps), ours(model, text, steps=steps))
    large = outputs(model, text, t_eps=0.3)
    seen["t_eps"] = apart(ksampler(large), ours(model, text, t_eps=0.3))
    seen["shift"] = apart(ksampler(outputs(model, text, shift=1.5)), ours(model, text, shift=1.5))
    seen["batch"] = apart(ksampler(outputs(model, edit, batch_size=3)), ours(model, edit, batch_size=3))
    nothing = outputs(model, edit, negative="nothing")
    seen["against nothing"] = apart(ksampler(nothing), ours(model, edit, img_cfg=4.0))
    (guider,) = custom.DualCFGGuider.execute(nothing[0], nothing[1], nothing[5], nothing[2], 4.0, 1.5, "regular").args
    seen["dual guidance"] = apart(advanced(guider, nothing[0], nothing[3]), ours(model, edit, img_cfg=1.5))
    (guider,) = custom.CFGGuider.execute(*outputs(model, edit)[:3], 4.0).args
    seen["guider"] = apart(advanced(guider, outputs(model, edit)[0], outputs(model, edit)[3]), ours(model, edit))
    (guider,) = custom.BasicGuider.execute(*nothing[:2]).args
    seen["unguided"] = apart(advanced(guider, nothing[0], nothing[3]), ours(model, edit, cfg=1.0))
    zeroed = nodes.ConditioningZeroOut().zero_out(nothing[1])[0]
    seen["zeroed out"] = apart(ksampler((*nothing[:2], zeroed, nothing[3])), ours(model, edit, img_cfg=4.0))
    twice = nodes.ConditioningCombine().combine(nothing[1], nothing[1])[0]
    everywhere = nodes.ConditioningSetMask().append(nothing[1], torch.ones(1, HEIGHT, WIDTH), "default", 1.0)[0]
    masked = ksampler((nothing[0], everywhere, *nothing[2:]))
    seen["masked everywhere"] = apart(masked, ours(model, edit, img_cfg=4.0))
    seen["in two halves"] = apart(halves(nothing), ours(model, edit, img_cfg=4.0))
    seen["combined with itself"] = apart(ksampler((nothing[0], twice, *nothing[2:])), ours(model, edit, img_cfg=4.0))
    return seen


def patched(model, asked) -> dict[str, Any]:
    """What nodes of ComfyUI change of a MODEL."""
    text = asked["text"]
    out = outputs(model, text)
    (shifted,) = ModelSamplingSD3().patch(out[0], 5.0)
    (auraflow,) = ModelSamplingSD3().patch(out[0], 5.0, multiplier=1.0)
    seen = {
        name: apart(ksampler((each, *out[1:])), ours(model, text, shift=5.0))
        for name, each in (("shifted", shifted), ("shifted as AuraFlow", auraflow))
    }
    seen["not shifted any more"] = apart(ksampler(out), ours(model, text))
    larger = {"samples": torch.zeros(1, 3, 2 * HEIGHT, WIDTH)}
    for name, each, shift in (("another size", out[0], 3.0), ("another size, shifted", shifted, 5.0)):
        drawn = ksampler((each, *out[1:]), latent=larger)
        seen[name] = apart(drawn, ours(model, text, height=2 * HEIGHT, shift=shift))
    same = out[0].clone()
    same.set_model_sampler_cfg_function(
        lambda args: args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"]
    )
    seen["a function for guidance"] = apart(ksampler((same, *out[1:])), ours(model, text))
    (louder,) = ModelNoiseScale().patch(shifted, 1.0)
    seen["its own noise"] = [each.get_model_object("model_sampling").noise_scale for each in (louder, out[0])]
    seen["other noise"] = apart(ksampler((louder, *out[1:])), ours(model, text, shift=5.0))
    return seen


def sampled(model, asked) -> dict[str, Any]:
    """Other samplers, other beginnings: (all is finite, how far from Euler's)."""
    edit, seen = asked["edit"], {}
    out = outputs(model, edit)
    euler = ksampler(out)
    (guider,) = custom.CFGGuider.execute(*out[:3], 4.0).args
    for name in ("heun", "dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde", "uni_pc", "res_multistep"):
        drawn = advanced(guider, out[0], out[3], sampler=name)
        seen[name] = [bool(drawn.isfinite().all()), apart(drawn, euler)]
    small = outputs(model, asked["text"], width=64, height=64)
    tried = [(name, "simple") for name in nodes.comfy.samplers.SAMPLER_NAMES]
    tried += [("euler", name) for name in nodes.comfy.samplers.SCHEDULER_NAMES]
    seen["not finite"] = [
        names for names in tried if not ksampler(small, sampler=names[0], scheduler=names[1]).isfinite().all()
    ]
    return seen | {"tried": len(tried)}


def begun_from_a_picture(model, asked) -> dict[str, Any]:
    out = outputs(model, asked["text"])
    picture = torch.randint(256, (1, HEIGHT, WIDTH, 3), generator=torch.Generator().manual_seed(1)) / 255
    (latent,) = nodes.VAEEncode().encode(out[4], picture)
    (back,) = nodes.VAEDecode().decode(out[4], latent)
    seen: dict[str, Any] = {"there and back": torch.equal(back, picture)}
    drawn = {denoise: ksampler(out, steps=5, denoise=denoise, latent=latent) for denoise in (1.0, 0.6, 0.2)}
    seen["denoised"] = [float((each - latent["samples"]).abs().mean()) for each in drawn.values()]
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, 20:70, 30:90] = 1
    (masked,) = nodes.SetLatentNoiseMask().set_mask(latent, mask)
    inside = mask[0].bool()
    (diff,) = DifferentialDiffusion.execute(out[0]).args
    for name, each in (("kept", out[0]), ("kept by differential diffusion", diff)):
        for denoise in (1.0, 0.6):
            result = ksampler((each, *out[1:]), steps=5, denoise=denoise, latent=masked)
            (after,) = nodes.VAEDecode().decode(out[4], {"samples": result})
            kept = torch.equal(after[0, ~inside], picture[0, ~inside])
            seen[f"{name}, denoise {denoise:g}"] = [kept, apart(after[0, inside], picture[0, inside])]
    return seen


def passes(model, asked) -> dict[str, list[int]]:
    """(through the generation expert, through the understanding expert) of runs of STEPS steps."""
    counted = {"drawing": 0, "reading": 0}
    run = model.engine.reader.run

    def counting(phase: str, work: Callable) -> Any:
        """Passes are where layers are asked for."""

        def watched(weights: Any) -> Any:
            class Watched:
                def layers(self, expert: str) -> Any:
                    counted[phase] += 1
                    return weights.layers(expert)

                def __getattr__(self, name: str) -> Any:
                    return getattr(weights, name)

            return work(Watched())

        return run(phase, watched)

    def count(draw: Callable[[], Any]) -> list[int]:
        counted.update(drawing=0, reading=0)
        model.engine.release()
        draw()
        return [counted["drawing"], counted["reading"]]

    model.engine.reader.run = counting
    try:
        edit = outputs(model, asked["edit"], negative="nothing")
        batch = outputs(model, asked["text"], batch_size=3)
        (dual,) = custom.DualCFGGuider.execute(edit[0], edit[1], edit[5], edit[2], 4.0, 1.5, "regular").args
        return {
            "guided": count(lambda: ksampler(edit)),
            "unguided": count(lambda: ksampler(edit, cfg=1.0)),
            "dual": count(lambda: advanced(dual, edit[0], edit[3])),
            "batch": count(lambda: ksampler(batch)),
            "heun": count(lambda: ksampler(edit, sampler="heun")),
        }
    finally:
        model.engine.reader.run = run


def in_turns(model, asked) -> dict[str, Any]:
    """Several MODELs, samplers and LoRAs on one engine: how far each is from what it is alone."""
    changed = model.with_lora(Path(lora), 1.0)
    wires = {"without": model, "with": changed}
    alone = {name: ours(each, asked["text"]) for name, each in wires.items()}
    made = {name: outputs(each, asked["text"]) for name, each in wires.items()}
    edit = ours(model, asked["edit"])
    seen = {"changes": apart(*alone.values()), "turns": []}
    for _ in range(2):
        for name in wires:
            seen["turns"].append(apart(ksampler(made[name]), alone[name]))
            seen["turns"].append(apart(ksampler(outputs(model, asked["edit"])), edit))
            seen["turns"].append(apart(ours(wires[name], asked["text"]), alone[name]))
    return seen


def evicted(model, asked) -> dict[str, Any]:
    """All memory is given back at the third step; and after the run."""
    out, expected = outputs(model, asked["text"]), ours(model, asked["text"])
    noise = comfy.sample.prepare_noise(out[3]["samples"], SEED)
    drawn = comfy.sample.sample(
        out[0], noise, STEPS, 4.0, "euler", "simple", out[1], out[2], out[3]["samples"], seed=SEED,
        callback=lambda step, *_: mm.unload_all_models() if step == 2 else None,
    )  # fmt: skip
    kept = model.engine._guessing is None
    mm.unload_all_models()
    residency = model.engine.memory.residency
    return {"apart": apart(drawn, expected), "let go": kept, "left": [residency.nbytes, model.engine.remembered.nbytes]}


def remembered_by_comfyui() -> list[int]:
    """How many models ComfyUI knows of: with a MODEL in use, when that is gone, and when its Loader is gone."""
    mm.unload_all_models()
    model = loaded()
    conditioning = model.engine.encode("a red circle")
    out = outputs(model, conditioning)
    ksampler(out, steps=1)
    seen = [len(mm.loaded_models())]
    del out
    seen += [len([each for each in mm.loaded_models() if each is model.patcher])]
    del model
    return [*seen, len([each for each in mm.loaded_models() if each is not None])]


def refused(model, asked) -> dict[str, str]:
    """What is said of what cannot be."""
    out, another = outputs(model, asked["text"]), loaded(other_checkpoint)
    foreign = outputs(another, another.engine.encode("a red circle"), width=64, height=64)
    clip = [[torch.zeros(1, 77, 768), {"pooled_output": None}]]
    area = nodes.ConditioningSetArea().append(out[1], 64, 64, 0, 0, 1.0)[0]
    joined = nodes.ConditioningConcat().concat(out[1], out[1])[0]
    averaged = nodes.ConditioningAverage().addWeighted(out[1], out[2], 0.5)[0]
    tries = {
        "clip": lambda: ksampler((out[0], clip, *out[2:])),
        "another model's": lambda: ksampler((out[0], foreign[1], *out[2:])),
        "area": lambda: ksampler((out[0], area, *out[2:])),
        "joined": lambda: ksampler((out[0], joined, *out[2:])),
        "averaged": lambda: ksampler((out[0], averaged, *out[2:])),
        "latent": lambda: ksampler(out, latent={"samples": torch.ones(1, 4, 32, 32)}),
        "size": lambda: ksampler(out, latent={"samples": torch.ones(1, 3, 100, 128)}),
        "core LoRA": lambda: comfy.sd.load_lora_for_models(out[0], None, comfy.utils.load_torch_file(lora), 1.0, 0),
        "sampling": lambda: ModelSamplingFlux().patch(out[0], 1.15, 0.5, 64, 64),
    }
    return {name: _error_of(each) for name, each in tries.items()}


def _error_of(work: Callable[[], Any]) -> str:
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@torch.inference_mode()
def main() -> dict[str, Any]:
    model = loaded()
    asked = prompts(model)
    parts = (equal, patched, sampled, begun_from_a_picture, passes, in_turns, evicted, refused)
    seen: dict[str, Any] = {part.__name__: part(model, asked) for part in parts}
    streaming = loaded(vram_mode="low")
    drawn = [ksampler(outputs(each, asked["edit"])) for each in (model, streaming)]
    return seen | {"streamed": apart(*drawn), "known": remembered_by_comfyui()}


if __name__ == "__main__":
    print(json.dumps(main()))
