"""Fill model folders with all kinds of checkpoints and of other files, and print what the pack's lists make of them.

    python listing.py COMFYUI CHECKPOINT FOLDER [HUB]

Run by ComfyUI's interpreter. HUB: where to download from, in place of all else.
"""

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from unittest import mock

comfyui, checkpoint, folder, hub = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
sys.argv[1:] = ["--cpu"]  # what ComfyUI reads
sys.path.insert(0, str(comfyui))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import folder_paths  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

REPOSITORY = Path(__file__).parents[2]


def load_pack():
    """nodes/progress.py, folders.py and load.py inside their package, as ComfyUI imports them."""
    spec = importlib.util.spec_from_file_location("pack", REPOSITORY / "__init__.py", submodule_search_locations=[])
    spec.submodule_search_locations.append(str(REPOSITORY))
    pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    return [importlib.import_module(f"pack.nodes.{name}") for name in ("progress", "folders", "load")]


def gguf(names: list[str]) -> bytes:
    """A header that names tensors."""
    return b"GGUF" + b"".join(len(name).to_bytes(8, "little") + name.encode() for name in names)


def fill() -> None:
    """models/sensenova, diffusion_models, unet, checkpoints, and a folder of extra_model_paths.yaml."""
    models, extra = folder / "models", folder / "elsewhere"
    ours, others = models / "sensenova", models / "diffusion_models"
    tensors = load_file(checkpoint / "model.safetensors")
    foreign = {"double_blocks.0.img_attn.weight": next(iter(tensors.values()))}
    (models / "checkpoints").mkdir(parents=True)
    save_file(
        {f"model.diffusion_model.{name}": value for name, value in tensors.items()},
        models / "checkpoints/c.safetensors",
    )
    save_file(foreign, models / "checkpoints/sd.safetensors")
    for place in (ours / "sub", others / "deep/er", models / "unet", extra, ours / "models--x--other/snapshots/1"):
        place.mkdir(parents=True)
    shutil.copytree(checkpoint, ours / "folder")
    shutil.copytree(checkpoint, others / "shared")
    (others / "foreign").mkdir()
    (others / "foreign/config.json").write_text('{"architectures": ["Other"]}')
    save_file(tensors, others / "foreign/mine.safetensors")
    save_file(tensors, ours / "single.safetensors")
    save_file({f"model.diffusion_model.{name}": value for name, value in tensors.items()}, ours / "sub/x.safetensors")
    save_file({f"diffusion_model.{name}": value for name, value in tensors.items()}, others / "deep/er/y.safetensors")
    save_file(foreign, ours / "flux.safetensors")
    save_file(foreign, others / "flux.safetensors")
    save_file(
        {"fm_modules.fm_head.0.lora_down.weight": tensors["fm_modules.fm_head.conv1.bias"]}, ours / "l.safetensors"
    )
    save_file(tensors, ours / "part-00001-of-00002.safetensors")
    (models / "unet/u1-Q4.gguf").write_bytes(gguf(["fm_modules.fm_head.0.weight"]))
    (models / "unet/flux-Q4.gguf").write_bytes(gguf(["double_blocks.0.img_attn.weight"]))
    (extra / "extra.safetensors").write_bytes((ours / "single.safetensors").read_bytes())
    for name, content in {"a.safetensors": b"", "b.gguf": b"GG", "c.safetensors": b"\xff" * 99, "d.ckpt": b"x"}.items():
        (ours / name).write_bytes(content)
    (ours / ".hidden.safetensors").write_bytes((ours / "single.safetensors").read_bytes())
    (ours / "gone.safetensors").symlink_to(ours / "nowhere")
    shutil.copytree(checkpoint, ours / "models--SenseNova--Cached/snapshots/abc")
    (ours / "models--x--other/snapshots/1/config.json").write_text("{}")
    packed = ours / "packed"
    packed.mkdir()
    shutil.copy(checkpoint / "config.json", packed)
    for name in ("a.gguf", "b.gguf"):
        (packed / name).write_bytes(gguf(["fm_modules.fm_head.0.weight"]))
    kinds = ours / "kinds"  # of one model, with its config beside them
    kinds.mkdir()
    shutil.copy(checkpoint / "config.json", kinds)
    for name in ("bf16.safetensors", "fp8.safetensors"):
        save_file(tensors, kinds / name)
    folder_paths.models_dir = str(models)
    folder_paths.folder_names_and_paths["diffusion_models"] = ([str(models / "unet"), str(others)], {".safetensors"})
    folder_paths.folder_names_and_paths["checkpoints"] = ([str(models / "checkpoints")], {".safetensors"})
    folder_paths.add_model_folder_path("sensenova", str(extra))


fill()
progress, folders, load = load_pack()
SETTINGS = dict.fromkeys(("dtype", "vram_mode", "max_memory", "attention"), "auto")
folders.register_model_folder()
report: dict = {"choices": folders.checkpoint_choices()}
looks = mock.Mock(side_effect=folders.is_of_family)
with mock.patch.object(folders, "is_of_family", looks):
    folders.checkpoint_choices()
    report["looks again"] = looks.call_count
    (folder / "models/sensenova/flux.safetensors").write_bytes(b"other")
    folders.checkpoint_choices()
    report["looks after a change"] = looks.call_count

single = folder / "models/sensenova/single.safetensors"
before = folders.fingerprint_of("single.safetensors")
report["fingerprint stays"] = before == folders.fingerprint_of("single.safetensors")
shutil.copytree(checkpoint, folder / "models/sensenova/tokenizer", ignore=shutil.ignore_patterns("*.safetensors"))
report["fingerprint sees the tokenizer"] = before != folders.fingerprint_of("single.safetensors")
before = folders.fingerprint_of("single.safetensors")
os.utime(single, (1, 1))
report["fingerprint sees the time"] = before != folders.fingerprint_of("single.safetensors")
report["fingerprint of none"] = folders.fingerprint_of("none")
loras = folder / "models/sensenova/loras"
loras.mkdir()
lora = "adapter_model.safetensors"
(loras / lora).write_bytes(b"x")
before = folders.lora_fingerprint(lora)
report["fingerprint of a LoRA stays"] = before == folders.lora_fingerprint(lora) is not None
(loras / "adapter_config.json").write_text("{}")
report["fingerprint sees a LoRA's settings"] = before != folders.lora_fingerprint(lora)
before = folders.lora_fingerprint(lora)
os.utime(loras / lora, (1, 1))
report["fingerprint sees a LoRA's time"] = before != folders.lora_fingerprint(lora)
linked = folders.fingerprint_of(None)
report["fingerprint of a link stays"] = linked == folders.fingerprint_of(None) == folders.fingerprint_of("none", None)
os.utime(folder / "models/diffusion_models/foreign/mine.safetensors", (2, 2))
report["fingerprint of a link sees any checkpoint"] = linked != folders.fingerprint_of(None)
linked = folders.lora_fingerprint(None)
report["fingerprint of a linked LoRA stays"] = linked == folders.lora_fingerprint(None)
os.utime(loras / lora, (2, 2))
report["fingerprint of a linked LoRA sees any"] = linked != folders.lora_fingerprint(None)
report["valid"] = load.Loader.validate_inputs("none")
try:
    load.Loader.execute(checkpoint="none", **SETTINGS)
except folders.CheckpointError as error:
    report["refused"] = str(error)

if hub:
    bars: list[tuple[int, int]] = []
    said: list[str] = []
    repo = "SenseNova/Fetched"
    fetched = {"checkpoint": "Fetched", "download": True, "repo": repo, "dtype": "auto"}
    settings = {**SETTINGS, "download": True, "repo": repo}
    stops = mock.Mock(side_effect=[None, None, KeyboardInterrupt])
    with (
        mock.patch.object(folders.comfy.utils, "ProgressBar") as bar,
        mock.patch.object(progress, "show_text", said.append),
    ):
        bar.return_value.update_absolute = lambda done, total: bars.append((done, total))
        try:
            load.Loader.execute(checkpoint="other", **settings)
        except folders.CheckpointError as error:
            report["another"] = str(error)
        before = load.Loader.fingerprint_inputs(**fetched)
        with mock.patch.object(progress, "stop_if_interrupted", stops):
            try:
                folders.download(repo)
            except KeyboardInterrupt:
                report["cancelled"] = "Fetched" not in folders.checkpoints()
        out = load.Loader.execute(checkpoint="Fetched", **settings)
    report["downloaded"] = folders.checkpoints()["Fetched"].relative_to(folder).as_posix()
    report["loaded"] = out.args[0].engine.config.pixel_head
    report["bar"], report["said"] = bars[-1], said[-1]
    report["fingerprint expects what is fetched"] = before == load.Loader.fingerprint_inputs(**fetched) is not None
    os.utime(folder / "models/sensenova/Fetched/model.safetensors", (1, 1))
    report["fingerprint sees what was fetched"] = before != load.Loader.fingerprint_inputs(**fetched) is not None
    try:
        folders.download("somebody/Fetched")
    except folders.CheckpointError as error:
        report["somebody's"] = str(error)
    several = {**settings, "repo": "sensenova/U1.6-Native"}
    one = {**several, "repo": "sensenova/U1.6-Native/U1.6-int8.safetensors", "checkpoint": "U1.6-Native"}
    try:
        load.Loader.execute(checkpoint="U1.6-Native", **several)
    except folders.CheckpointError as error:
        report["several"] = str(error)
    with mock.patch.object(progress, "show_text", said.append):
        before = load.Loader.fingerprint_inputs(**one)
        load.Loader.execute(**one)
    native = folder / "models/sensenova/U1.6-Native"
    report["one"] = [path.relative_to(folder).as_posix() for path in native.glob("*.safetensors")]
    report["one was said"] = said[-1]
    os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
    report["again"] = folders.download(repo).name
    report["fingerprint expects one file"] = before == load.Loader.fingerprint_inputs(**one) is not None
    report["one again"] = folders.chosen("U1.6-Native/U1.6-int8.safetensors", one["repo"])[1].name
print(json.dumps(report))
