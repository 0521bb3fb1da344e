"""The public API: load a checkpoint, encode a prompt, sample an image."""

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from . import prompt as prompts
from .checkpoint import STORED_DTYPES, check_names_and_shapes, drop_weights, load_weights, read_headers
from .config import ModelConfig
from .errors import SettingsError
from .flow import Guidance
from .memory import MODES_IN_EFFECT, check_mode, parse_max_memory
from .model import SenseNovaU1, attention_kernel
from .prefix import Prefix, PrefixCache, Reading
from .prompt import Conditioning, Sequence
from .sampling import Denoiser, SamplingSettings, Step, working_bytes
from .tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PREFIX_CACHE_BYTES = 2 * 2**30  # a 2048 x 2048 reference of the 8B models takes 0.7 GB

log = logging.getLogger(__name__)


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
    vram_mode: str = "auto",
    max_memory: str = "auto",
    attention: str = "auto",
    place: bool = True,
) -> "Engine":
    """Load a Hugging Face checkpoint folder of the SenseNova-U1 family.

    dtype: "auto" (as stored), or one of DTYPES. attention: one of model.BACKENDS.
    vram_mode, max_memory: see memory.budget; whatever they say, every weight is kept on the device for now.
    Everything about the files is checked before a weight is read: raises CheckpointError or SettingsError, and loads
    nothing. Weights go from the memory-mapped files to `device`; on the CPU in their stored dtype they stay mapped.
    place=False leaves them on disk until they are first needed.
    """
    check_mode(vram_mode)
    if parse_max_memory(max_memory) or vram_mode not in MODES_IN_EFFECT:
        log.warning(
            "vram_mode=%s, max_memory=%s: no effect yet, every weight stays on %s", vram_mode, max_memory, device
        )
    engine = Engine(path, device, dtype, attention)
    if place:
        engine.place()
    return engine


class Engine:
    """One checkpoint and what it has read. Make it with `load`."""

    def __init__(self, path: str | Path, device: str | torch.device, dtype: str | torch.dtype, attention: str):
        """Check files and settings; the weights stay on disk until `place`."""
        self.path = Path(path)
        self.device = device_named(device)
        self.dtype = _dtype(dtype)
        self.attention = attention
        self._kernel = attention_kernel(attention)
        self.config = ModelConfig.from_folder(self.path)
        self._headers = read_headers(self.path)
        head = self._headers.get("fm_modules.fm_head.0.bias") or self._headers.get("fm_modules.fm_head.conv1.bias")
        if head is not None:
            self.config = self.config.with_head_width(head.shape[0])
        self.model = SenseNovaU1.on_meta(self.config)
        check_names_and_shapes(self.model, self._headers)
        self.tokenizer = Tokenizer(self.path)
        self.prefixes = PrefixCache(PREFIX_CACHE_BYTES)

    @property
    def placed(self) -> bool:
        """Whether the weights are where they run."""
        return self.model.device.type != "meta"

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype that matmuls run in."""
        return self.dtype or STORED_DTYPES[self._headers["language_model.model.layers.0.self_attn.o_proj.weight"].dtype]

    @property
    def weight_bytes(self) -> int:
        """What the weights take on the device."""
        size = self.dtype.itemsize if self.dtype else None
        return sum(header.numel * (size or header.itemsize) for header in self._headers.values())

    def working_bytes(self, conditioning: Conditioning, settings: SamplingSettings) -> int:
        """Device memory that sampling needs beside the weights, estimated from above."""
        prefix_tokens = sum(len(sequence.ids) for sequence in conditioning.sequences.values())
        return working_bytes(self.config, settings, prefix_tokens, self.compute_dtype.itemsize)

    def place(self) -> None:
        """Bring the weights from the files to the device, unless they are there."""
        if not self.placed:
            load_weights(self.model, self._headers, self.device, self.dtype)

    def release(self) -> None:
        """Give back all device memory, weights and prefixes; `place` brings the weights back from the files."""
        self.prefixes.clear()
        drop_weights(self.model)

    def encode(self, prompt: str) -> Conditioning:
        """Make a prompt ready to be read. Cheap: the reading itself happens once, when sampling first needs it.

        Raises PromptError, for example for a prompt longer than the context.
        """
        return prompts.text_to_image(self.tokenizer, prompt, self.config.decoder.max_positions)

    def sample(
        self,
        conditioning: Conditioning,
        *,
        width: int = 2048,
        height: int = 2048,
        steps: int = 50,
        cfg: float = 4.0,
        img_cfg: float = 1.0,
        cfg_norm: str = "none",
        cfg_interval: tuple[float, float] = (0.0, 1.0),
        shift: float = 3.0,
        t_eps: float = 0.02,
        seed: int = 42,
        batch_size: int = 1,
    ) -> Iterator[Step]:
        """Draw. Returns an iterator of `steps` Steps; the last one's `image()` is the result.

        Nothing is computed before the first step is asked for, and a caller that stops asking has cancelled.
        Ranges: see SamplingSettings and flow.Guidance; raises SettingsError at the call, before any work.
        """
        interval = tuple(cfg_interval) if isinstance(cfg_interval, list) else cfg_interval
        guidance = Guidance(cfg, img_cfg, cfg_norm, interval)
        return self.denoise(
            conditioning, SamplingSettings(width, height, steps, guidance, shift, t_eps, seed, batch_size)
        )

    def denoise(self, conditioning: Conditioning, settings: SamplingSettings) -> Iterator[Step]:
        """`sample` with its settings in one value."""
        settings.check_size(self.config)
        return self._denoise(conditioning, settings)

    @torch.inference_mode()
    def _denoise(self, conditioning: Conditioning, settings: SamplingSettings) -> Iterator[Step]:
        self.place()
        prefixes = self._prefixes(conditioning, settings)
        yield from Denoiser(self.model, prefixes, settings, self._kernel, edit=False).steps()

    def _prefixes(self, conditioning: Conditioning, settings: SamplingSettings) -> dict[str, Prefix]:
        """A prefix for every branch that some step of these settings needs, the full condition first."""
        times = settings.times()[:-1].tolist()
        needed = max((settings.guidance.branches(False, t) for t in times), key=len)
        return {branch: self.read(conditioning.sequences[branch]) for branch in needed}

    @torch.inference_mode()
    def read(self, sequence: Sequence) -> Prefix:
        """Run the understanding expert over a sequence, unless that has been done and is still held."""
        prefix = self.prefixes.get(sequence.key)
        if prefix is None:
            self.place()
            prefix = self._read(sequence)[0]
            self.prefixes.put(sequence.key, prefix)
        return prefix

    def _read(self, sequence: Sequence) -> tuple[Prefix, Tensor]:
        """The prefix and the last hidden states (1, tokens, hidden)."""
        understanding = self.model.understanding
        x = understanding.embed_tokens(sequence.ids.to(self.device))[None]
        rotation = self.model.rotation(sequence.positions[None].to(self.device))
        reading = Reading(sequence.runs, self._kernel)
        hidden = understanding.decoder(x, rotation, reading.attend_at)
        return reading.prefix(sequence.last_t), hidden


def _dtype(dtype: str | torch.dtype) -> torch.dtype | None:
    """The dtype to cast weights to; None for as stored."""
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if dtype != "auto" and dtype not in DTYPES:
        raise SettingsError(f"dtype {dtype!r} is unknown; choose auto or one of {', '.join(DTYPES)}")
    return DTYPES.get(dtype)


def device_named(name: str | torch.device) -> torch.device:
    """The device of a name such as "cpu" or "cuda:1". Raises SettingsError if this machine has none such."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"device {name}: {reason}; choose cpu, or a device this machine has") from error
    return device
