"""What other nodes send over IMAGE and MASK wires: read rightly, or refused in one sentence at Image Condition."""

import numpy as np
import pytest
import torch

from nodes.batches import check_image, to_pictures

IMAGE = torch.rand(2, 6, 9, 3, generator=torch.Generator().manual_seed(0))
LEVELS = (IMAGE.numpy() * 255).round().astype(np.uint8)


def pixels(batch, mask=None) -> list[np.ndarray]:
    return [np.asarray(picture) for picture in to_pictures(batch, mask, "image3")]


def refusal(batch, mask=None) -> str:
    with pytest.raises(ValueError) as caught:
        to_pictures(batch, mask, "image3")
    text = str(caught.value)
    assert len(text) < 300 and "\n" not in text
    return text


@pytest.mark.parametrize(
    "same",
    [
        lambda image: image,
        lambda image: image.double(),
        lambda image: (image * 255).round().byte(),
        lambda image: image.clone().requires_grad_(),
        lambda image: image.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        lambda image: torch.nn.Parameter(image),
    ],
)
def test_images_of_every_type(same):
    assert all((a == b).all() for a, b in zip(pixels(same(IMAGE)), LEVELS, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    assert abs(pixels(IMAGE.to(dtype))[1].astype(int) - LEVELS[1]).max() <= 1


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels(channels, mode):
    assert [picture.mode for picture in to_pictures(torch.zeros(1, 4, 4, channels))] == [mode]


def test_highlights_are_white():
    image = torch.full((1, 4, 4, 3), 0.5)
    image[0, 0, 0], image[0, 1, 1] = torch.inf, -1
    assert pixels(image)[0][0, 0].tolist() == [255] * 3 and pixels(image)[0][1, 1].tolist() == [0] * 3


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (None, "image3 is nothing (None); connect an IMAGE"),
        ({"samples": IMAGE}, "image3 is of type dict"),
        ([IMAGE], "image3 is of type list"),
        ("cat.png", "image3 is of type str"),
        (IMAGE.numpy(), "image3 is of type ndarray"),
        (IMAGE[:0], "image3 is an empty batch"),
        (torch.zeros(0), "image3 has the shape (0,)"),
        (torch.zeros(0, 0, 0, 0), "image3 is an empty batch"),
        (IMAGE[0], "(6, 9, 3), and an IMAGE is (batch, height, width, channels); add the batch axis"),
        (IMAGE[..., 0], "Convert Mask to Image"),
        (torch.tensor(0.5), "has the shape ()"),
        (IMAGE[None], "has the shape (1, 2, 6, 9, 3)"),
        (torch.zeros([1] * 60), "of 60 axes"),
        (IMAGE.permute(0, 3, 1, 2), "its channels come first"),
        (torch.zeros(1, 4, 64, 64), "its channels come first"),
        (torch.zeros(1, 8, 8, 2), "2 channels; give 3"),
        (torch.zeros(1, 8, 8, 5), "5 channels; give 3"),
        (torch.zeros(1, 8, 8, 0), "0 channels; give 3"),
        (torch.zeros(1, 0, 8, 3), "without any pixel"),
        (torch.zeros(1, 8, 0, 3), "without any pixel"),
        (torch.full((1, 4, 4, 3), torch.nan), "image3 holds NaN"),
        (torch.cat([IMAGE[:1], IMAGE[1:] * torch.nan]), "image3, picture 2, holds NaN"),
        (IMAGE * 255, "image3, picture 1, goes up to 25"),
        (IMAGE.long(), "image3 is of int64"),
        (IMAGE.short(), "image3 is of int16"),
        (IMAGE.to(torch.complex64), "complex64"),
        (IMAGE.to("meta"), "image3 is a tensor of"),
        (IMAGE.to_sparse(), "sparse"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(batch, words):
    assert words in refusal(batch)


@pytest.mark.parametrize("shape", [(6, 9), (1, 6, 9), (2, 6, 9), (1, 6, 9, 1), (1, 1, 6, 9), (2, 1, 6, 9), (3, 12, 18)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8])
def test_masks_of_every_shape(shape, dtype):
    mask = torch.zeros(shape)
    halves = mask.view(-1, shape[-3], shape[-2]) if shape[-1] == 1 else mask
    (halves.squeeze(-3) if halves.ndim == 4 else halves)[..., : halves.shape[-1] // 3] = 1
    mask = mask * 255 if dtype == torch.uint8 else mask
    alpha = pixels(IMAGE, mask.to(dtype))[1][..., 3]
    assert (alpha[:, :2] == 0).all() and (alpha[:, 4:] == 255).all()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({}, "mask3 is of type dict; connect a MASK"),
        (torch.zeros(0, 6, 9), "mask3 has the shape (0, 6, 9) and is empty"),
        (torch.zeros(1, 0, 9), "is empty"),
        (torch.zeros(9), "a MASK is (batch, height, width)"),
        (torch.zeros(1, 6, 9, 3), "a MASK is (batch, height, width)"),
        (torch.zeros(1, 1, 6, 9, 1), "a MASK is (batch, height, width)"),
        (torch.full((1, 6, 9), torch.nan), "mask3 holds NaN"),
        (torch.full((1, 6, 9), 255.0), "mask3 goes up to 255"),
        (torch.zeros(1, 6, 9).int(), "mask3 is of int32"),
    ],
)
def test_what_is_no_mask_is_refused_in_one_sentence(mask, words):
    assert words in refusal(IMAGE, mask)


def test_checking_looks_at_no_pixel():
    check_image(torch.full((1, 4, 4, 3), torch.nan), "image0")
