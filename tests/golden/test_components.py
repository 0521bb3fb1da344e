"""Each part of the model alone against the reference implementation."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sensenova_core.model.attention import sdpa
from sensenova_core.model.embedders import sinusoids
from sensenova_core.model.grid import Grid
from sensenova_core.model.rope import frequencies
from sensenova_core.reading.prefix import Context, DrawingAttention, Prefix, ReadingAttention
from sensenova_core.reading.prompt import positions, runs
from tests.support.golden_set import cases, relative_error, tensors

TOLERANCE = 1e-5  # worst measured: 8e-7, the embedding of patches
LAYER = 1  # the one whose numbers the files hold


def having(tensor: str):
    """Only the cases that hold this tensor."""
    chosen = [case for case in cases("components") if tensor in case["tensors"]]
    return pytest.mark.parametrize("parts", chosen, indirect=True, ids=lambda case: case["name"])


@pytest.fixture(scope="module")
def parts(request, engines) -> SimpleNamespace:
    engine = engines(request.param["checkpoint"])
    model = engine.model
    return SimpleNamespace(
        golden=tensors(request.param),
        config=engine.config,
        reader=engine.reader,
        model=model,
        experts={"und": model.understanding, "gen": model.generation},
    )


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def two_by_two(patches: Tensor, rows: int, columns: int) -> Tensor:
    """(rows * columns, values), row-major -> (tokens, 4, values), one token for every 2 x 2 of them."""
    grid = patches.view(rows // 2, 2, columns // 2, 2, -1)
    return grid.transpose(1, 2).reshape(-1, 4, patches.shape[-1])


def golden_context(parts) -> Context:
    """What the single-layer cases have read before, with room for one token more."""
    key, value = (parts.golden[name].transpose(1, 2) for name in ("prefix_k", "prefix_v"))
    context = parts.reader.new_context(key.shape[1] + 1)
    context.write(LAYER, key, value)
    context.advance(key.shape[1], last_t=8)
    return context


def golden_prefix(golden: dict[str, Tensor]) -> Prefix:
    """What the single-layer cases attend to, at the layer they are about."""
    key, value = (golden[name].transpose(1, 2) for name in ("prefix_k", "prefix_v"))
    return Prefix((key,) * (LAYER + 1), (value,) * (LAYER + 1), last_t=8)


def run_layer(parts, expert: str, x: Tensor, indexes: Tensor, attend) -> tuple[Tensor, Tensor]:
    """(attention out, layer out) of the layer in question."""
    layer, seen = parts.experts[expert].decoder.layers[LAYER], []
    hook = layer.self_attn.register_forward_hook(lambda _, __, out: seen.append(out))
    out = layer(x, parts.model.rotation(indexes.long()[None]), attend)
    hook.remove()
    return seen[0], out


@having("vision_und_out")
@pytest.mark.parametrize("expert", ["und", "gen"])
def test_vision(parts, expert):
    embedder, start, out = parts.experts[expert].vision, 0, []
    for rows, columns in parts.golden["vision_grid_hw"].tolist():  # in patches
        patches = parts.golden["vision_pixel_values"][start : start + rows * columns]
        rotary = embedder.rotary(Grid(rows // 2, columns // 2, parts.config.token_pixels), torch.device("cpu"))
        out.append(embedder(two_by_two(patches, rows, columns)[None], rotary)[0])
        start += rows * columns
    assert relative_error(torch.cat(out), parts.golden[f"vision_{expert}_out"]) < TOLERANCE


@having("layer_und_out")
def test_layer_reads(parts):
    golden, indexes = parts.golden, parts.golden["layer_und_indexes"].long()
    context = parts.reader.new_context(indexes.shape[1])
    reading = ReadingAttention(context, runs(indexes[0]), sdpa)
    attended, out = run_layer(parts, "und", golden["layer_und_in"], indexes, reading.attend_at(LAYER))
    context.advance(indexes.shape[1], int(indexes[0, -1]))
    read = context.prefix()
    assert relative_error(attended, golden["layer_und_attn_out"]) < TOLERANCE
    assert relative_error(out, golden["layer_und_out"]) < TOLERANCE
    assert relative_error(read.keys[LAYER].transpose(1, 2), golden["layer_und_k"]) < TOLERANCE
    assert relative_error(read.values[LAYER].transpose(1, 2), golden["layer_und_v"]) < TOLERANCE


@having("layer_und_step_out")
def test_layer_reads_one_more_token(parts):
    golden = parts.golden
    reading = ReadingAttention(golden_context(parts), runs(golden["layer_und_step_indexes"][0]), sdpa)
    _, out = run_layer(
        parts, "und", golden["layer_und_step_in"], golden["layer_und_step_indexes"], reading.attend_at(LAYER)
    )
    assert relative_error(out, golden["layer_und_step_out"]) < TOLERANCE


@having("layer_gen_out")
def test_layer_draws(parts):
    golden = parts.golden
    x = golden["layer_gen_in"]
    drawing = DrawingAttention((golden_prefix(golden),), images=1, tokens=x.shape[1], kernel=sdpa)
    attended, out = run_layer(parts, "gen", x, golden["layer_gen_indexes"], drawing.attend_at(LAYER))
    assert relative_error(attended, golden["layer_gen_attn_out"]) < TOLERANCE
    assert relative_error(out, golden["layer_gen_out"]) < TOLERANCE


@having("layer_und_mlp_in")
@pytest.mark.parametrize("expert", ["und", "gen"])
def test_feed_forward(parts, expert):
    out = parts.experts[expert].decoder.layers[LAYER].mlp(parts.golden["layer_und_mlp_in"])
    assert relative_error(out, parts.golden[f"layer_{expert}_mlp_out"]) < TOLERANCE


@having("moe_und_router_logits")
@pytest.mark.parametrize("expert", ["und", "gen"])
def test_router(parts, expert):
    router = parts.experts[expert].decoder.layers[LAYER].mlp.gate
    logits = router(parts.golden["layer_und_mlp_in"])
    assert relative_error(logits, parts.golden[f"moe_{expert}_router_logits"]) < TOLERANCE


@having("lm_und_logits")
def test_whole_backbone(parts):
    """Every layer over a sequence of text and an image, then an image drawn on what was read."""
    golden, indexes = parts.golden, parts.golden["layer_und_indexes"].long()
    context = parts.reader.new_context(indexes.shape[1])
    reading = ReadingAttention(context, runs(indexes[0]), sdpa)
    rotation = parts.model.rotation(indexes[None])
    decoder = parts.experts["und"].decoder
    hidden = decoder(golden["lm_und_in_embeds"], rotation, reading.attend_at, layers=decoder.layers)
    context.advance(indexes.shape[1], int(indexes[0, -1]))
    assert relative_error(parts.experts["und"].lm_head(hidden), golden["lm_und_logits"]) < TOLERANCE

    image = golden["layer_gen_indexes"].long().clone()
    image[0] = indexes[0, -1] + 1
    x = golden["layer_gen_in"]
    drawing = DrawingAttention((context.prefix(),), images=1, tokens=x.shape[1], kernel=sdpa)
    decoder = parts.experts["gen"].decoder
    out = decoder(x, parts.model.rotation(image[None]), drawing.attend_at, layers=decoder.layers)
    assert relative_error(out, golden["lm_gen_on_und_prefix_out"]) < TOLERANCE


@having("final_norm_und_out")
@pytest.mark.parametrize("expert", ["und", "gen"])
def test_final_norm(parts, expert):
    out = parts.experts[expert].decoder.norm(parts.golden["layer_gen_in"])
    assert relative_error(out, parts.golden[f"final_norm_{expert}_out"]) < TOLERANCE


@having("rope_t_inv_freq")
def test_rotary_frequencies(parts):
    golden, decoder = parts.golden, parts.config.decoder
    time = frequencies(decoder.head_dim // 2, decoder.rope_theta)
    grid = frequencies(decoder.head_dim // 4, decoder.rope_theta_hw)
    assert relative_error(time, golden["rope_t_inv_freq"]) < TOLERANCE
    assert relative_error(grid, golden["rope_hw_inv_freq"]) < TOLERANCE


@having("rope_t_cos")
def test_rotary_turns_as_the_tables_say(parts):
    """Rows and columns go through the tables in opposite order, so that mixing them up shows."""
    golden = parts.golden
    grid = golden["rope_hw_positions"].long()
    rotation = parts.model.rotation(torch.stack([golden["rope_t_positions"].long(), grid, grid.flip(0)])[None])
    x = torch.randn(1, len(grid), 3, parts.config.decoder.head_dim, generator=torch.Generator().manual_seed(0))
    tables = [
        (golden["rope_t_cos"], golden["rope_t_sin"]),
        (golden["rope_hw_cos"], golden["rope_hw_sin"]),
        (golden["rope_hw_cos"].flip(0), golden["rope_hw_sin"].flip(0)),
    ]
    turned = []
    for part, (cos, sin) in zip(x.split([cos.shape[-1] for cos, _ in tables], -1), tables, strict=True):
        first, second = part.chunk(2, -1)
        turned.append(part * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None])
    assert relative_error(rotation.turn(x), torch.cat(turned, -1)) < TOLERANCE


@having("timestep_out")
def test_timestep_embedder(parts):
    golden = parts.golden
    assert relative_error(sinusoids(golden["timestep_t"]), golden["timestep_sinusoid"]) < TOLERANCE
    out = parts.model.generation.timestep_embedder(golden["timestep_t"])
    assert relative_error(out, golden["timestep_out"]) < TOLERANCE


@having("noise_scale_out")
def test_noise_scale_embedder(parts):
    out = parts.model.generation.noise_scale_embedder(parts.golden["noise_scale_in"])
    assert relative_error(out, parts.golden["noise_scale_out"]) < TOLERANCE


@having("fm_head_out")
def test_linear_head(parts):
    out = parts.model.generation.head(parts.golden["fm_head_in"], Grid(1, 5, parts.config.token_pixels))
    assert relative_error(out, parts.golden["fm_head_out"]) < TOLERANCE


@having("pixel_head_out")
def test_pixel_head(parts):
    x = parts.golden["pixel_head_in"]  # (batch, hidden, token rows, token columns)
    grid = Grid(*x.shape[2:], parts.config.token_pixels)
    tokens = parts.model.generation.head(x.flatten(2).transpose(1, 2), grid)
    assert relative_error(grid.tokens_to_image(tokens), parts.golden["pixel_head_out"]) < TOLERANCE


@having("patchify_in")
def test_layouts(parts):
    image = parts.golden["patchify_in"]
    grid = parts.config.grid(width=image.shape[3], height=image.shape[2])
    tokens = grid.image_to_tokens(image)
    assert torch.equal(tokens, parts.golden["patchify_tokens"])
    assert torch.equal(grid.tokens_to_image(tokens), image)
    patches = two_by_two(parts.golden["patchify_pixels_channel_first"][0], 2 * grid.rows, 2 * grid.columns)
    assert torch.equal(grid.image_to_patches(image)[0], patches)
    assert torch.equal(grid.tokens_to_patches(tokens)[0], patches)


@having("thw_indexes")
def test_positions_of_text_and_two_images(parts):
    golden = parts.golden
    in_patches, side = golden["thw_grid_hw"].tolist(), parts.config.token_pixels
    grids = tuple(Grid(rows // 2, columns // 2, side) for rows, columns in in_patches)
    slot, start = 509, 510  # of the tiny tokenizers
    ours = positions(golden["thw_ids"].long(), start_id=start, slot_id=slot, grids=grids)
    assert ours.tolist() == golden["thw_indexes"].tolist()


@having("thw_indexes")
@pytest.mark.parametrize(
    "indexes, mask", [("thw_indexes", "block_causal_mask_thw"), ("layer_und_indexes", "layer_und_mask")]
)
def test_reading_runs_see_what_the_mask_lets_them(parts, indexes, mask):
    visible = parts.golden[mask][0, 0] == 0
    stretches, start = runs(parts.golden[indexes][0]), 0
    ours = torch.zeros_like(visible)
    for stop, is_image in stretches:
        ours[start:stop, :stop] = True if is_image else torch.ones(stop - start, stop).tril(start).bool()
        start = stop
    assert torch.equal(ours, visible)

    query, key, value = torch.randn(3, 1, len(visible), 2, 8, generator=torch.Generator().manual_seed(1))
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / 8**0.5 + parts.golden[mask]
    expected = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value)
    config = replace(parts.config.decoder, num_kv_heads=2, head_dim=8)
    reading = ReadingAttention(
        Context(config, device=torch.device("cpu"), dtype=torch.float32, tokens=len(visible)), stretches, sdpa
    )
    assert relative_error(reading.attend_at(0)(query, key, value), expected) < TOLERANCE
