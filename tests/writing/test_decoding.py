"""Choosing tokens, and turning them into text while they come."""

import random
from collections import Counter

import pytest
import torch

from sensenova_core import SenseNovaError, SettingsError
from sensenova_core.settings import DecodingSettings
from sensenova_core.writing.decode import TextStream, chooser
from tests.support.each import each

QUESTION = "what is 2+2?"
LOGITS = torch.tensor([2.0, -0.5, 2.5, 0.5, 1.0, -1.0])
# The 256 bytes as byte-level tokenizers spell them: those that print as they are, the others as letters from 256 on.
PRINTED = (*range(33, 127), *range(161, 173), *range(174, 256))
OTHERS = [byte for byte in range(256) if byte not in PRINTED]
BYTES = {byte: chr(byte) for byte in PRINTED} | {byte: chr(256 + rank) for rank, byte in enumerate(OTHERS)}


def reply(engine, **settings) -> tuple[int, ...]:
    engine.remembered.forget()
    *_, answer = engine.understand(QUESTION, settings=DecodingSettings(**{"max_tokens": 24} | settings))
    return answer.ids


def drawn(count: int = 1000, **settings) -> Counter:
    """How often each token is chosen from LOGITS."""
    choose = chooser(DecodingSettings(sample=True, **settings))
    return Counter(choose(LOGITS, []) for _ in range(count))


def test_a_seed_gives_the_same_text(engines):
    engine = engines("tiny-u15")
    sampled = {"sample": True, "temperature": 1.0, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1}
    first = reply(engine, **sampled, seed=1)
    assert reply(engine, **sampled, seed=1) == first
    assert reply(engine, **sampled, seed=2) != first != reply(engine)


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}], ids=str)
def test_sampling_that_leaves_one_token_is_greedy(engines, narrow):
    engine = engines("tiny-u15")
    assert reply(engine, sample=True, seed=3, **narrow) == reply(engine)


def test_greedy_ignores_what_only_sampling_uses(engines):
    engine = engines("tiny-u15")
    assert reply(engine, temperature=5.0, top_k=3, top_p=0.1, seed=9) == reply(engine)


def test_top_k_leaves_the_likeliest():
    assert set(drawn(top_k=3, temperature=10.0)) == {2, 0, 4}
    assert set(drawn(top_k=100, temperature=10.0)) == set(range(6))


def test_top_p_leaves_the_fewest_that_reach_it():
    """Likelihoods: 0.49 of token 2, 0.30 of 0, 0.11 of 4, 0.07 of 3, 0.02 of 1, 0.01 of 5."""
    likelihood = LOGITS.softmax(-1)
    for bound, kept in ((0.4, {2}), (0.6, {2, 0}), (0.85, {2, 0, 4}), (1.0, set(range(6)))):
        assert likelihood[list(kept)].sum() >= bound - 1e-6
        assert set(drawn(temperature=1.0, top_p=bound)) == kept


def test_top_p_counts_what_top_k_left():
    two = LOGITS[[2, 0]].softmax(-1)
    assert set(drawn(temperature=1.0, top_k=2, top_p=float(two[0]) - 0.01)) == {2}
    assert set(drawn(temperature=1.0, top_k=2, top_p=float(two[0]) + 0.01)) == {2, 0}


def test_tokens_are_chosen_as_often_as_they_are_likely():
    seen = drawn(count=4000, temperature=2.0)
    expected = (LOGITS / 2).softmax(-1) * 4000
    for token, times in enumerate(expected.tolist()):
        assert seen[token] == pytest.approx(times, abs=4 * times**0.5)


def test_sampling_draws_as_torch_does():
    """Which draws a token in the same way from the same random numbers on a CPU."""
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    random, choose = torch.Generator().manual_seed(7), chooser(DecodingSettings(sample=True, temperature=1.0, seed=7))
    for _ in range(200):
        assert choose(logits, []) == int(torch.multinomial(logits.softmax(-1), 1, generator=random))


def test_a_chooser_can_begin_anew():
    """What it has marked as chosen is what it is told now, not what it was told before."""
    choose = chooser(DecodingSettings(repetition_penalty=100.0))
    logits = torch.tensor([3.0, 2.0, 1.0])
    assert [choose(logits, chosen) for chosen in ([], [0], [0, 1], [1], [1, 0], [2, 0])] == [0, 1, 2, 0, 2, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("sample", [False, True])
def test_logits_that_are_not_finite(value, sample):
    with pytest.raises(SenseNovaError, match="after 2 tokens"):
        chooser(DecodingSettings(sample=sample))(torch.tensor([0.0, value, 1.0]), [1, 1])


def test_one_copy_to_the_host_for_a_token():
    """On a card each is a wait. A tensor that counts what is asked of its numbers."""
    counted = []

    class Counted(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function.__name__ in ("tolist", "item", "__float__", "__int__", "__bool__", "cpu", "numpy"):
                counted.append(function.__name__)
            return super().__torch_function__(function, types, args, kwargs or {})

    for settings in ({}, {"sample": True, "top_k": 3, "top_p": 0.9}, {"repetition_penalty": 1.2}):
        counted.clear()
        chooser(DecodingSettings(**settings))(LOGITS.as_subclass(Counted), [1, 2])
        assert counted == ["tolist"]


def naive_penalised(logits: torch.Tensor, chosen: list[int], penalty: float) -> torch.Tensor:
    out = logits.clone()
    for token in set(chosen):
        out[token] = out[token] / penalty if out[token] > 0 else out[token] * penalty
    return out


@pytest.mark.parametrize("penalty", [1.0, 1.3, 2.0, 0.7])
def test_repetition_penalty(engines, penalty):
    """Greedy decoding by hand: each choice from the logits of the engine, penalised one token at a time."""
    engine, seen = engines("tiny-u15"), []
    settings = DecodingSettings(max_tokens=24, repetition_penalty=penalty)
    choose = chooser(settings)

    def recorded(logits, chosen):
        seen.append((logits.clone(), list(chosen)))
        return choose(logits, chosen)

    engine.remembered.forget()
    *_, answer = engine.understand(QUESTION, settings=settings, choose=recorded)
    for index, (logits, chosen) in enumerate(seen):
        assert chosen == list(answer.ids[:index])
        if index < len(answer.ids):
            assert int(naive_penalised(logits, chosen, penalty).argmax()) == answer.ids[index]
    assert (answer.ids == reply(engine)) is (penalty == 1.0)


@pytest.mark.parametrize("logits, expected", [([-1.0, -1.5], 1), ([1.0, 0.8], 1), ([1.0, 0.4], 0), ([-1.0, -2.5], 0)])
def test_repetition_penalty_lowers_either_sign(logits, expected):
    choose = chooser(DecodingSettings(repetition_penalty=2.0))
    assert choose(torch.tensor(logits), [0, 0]) == expected  # once, however often it was chosen


def test_logits_are_of_the_last_token_alone(engines, monkeypatch):
    """The head is 622 million numbers at full size, and a long prompt has thousands of tokens."""
    engine, shapes = engines("tiny-u15"), []
    understanding, logits = engine.model.understanding, engine.model.understanding.logits
    monkeypatch.setattr(understanding, "logits", lambda x, head: shapes.append(tuple(x.shape)) or logits(x, head))
    count = len(reply(engine))
    assert shapes == [(1, engine.config.decoder.hidden_size)] * count


def test_every_token_is_chosen_from_float32(engines):
    engine, dtypes = engines("tiny-u15"), []

    def choose(logits, chosen):
        dtypes.append((logits.dtype, tuple(logits.shape)))
        return 5

    list(engine.understand(QUESTION, settings=DecodingSettings(max_tokens=2), choose=choose))
    assert dtypes == [(torch.float32, (512,))] * 2


@pytest.mark.parametrize(
    "settings, value, remedy",
    [
        ({"max_tokens": 0}, "max_tokens is 0", "from 1"),
        ({"max_tokens": 2.0}, "max_tokens is 2.0", "whole number"),
        ({"max_tokens": True}, "max_tokens is True", "whole number"),
        ({"top_k": -1}, "top_k is -1", "from 0"),
        ({"seed": -1}, "seed is -1", "from 0"),
        ({"temperature": 0}, "temperature is 0", "from 0.0001"),
        ({"temperature": float("nan")}, "temperature is nan", "from 0.0001"),
        ({"top_p": 0.0}, "top_p is 0.0", "over 0"),
        ({"top_p": 1.1}, "top_p is 1.1", "up to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0", "from 0.0001"),
        ({"temperature": "1"}, "temperature is '1'", "from 0.0001"),
    ],
    ids=str,
)
def test_refused_with_value_and_remedy(settings, value, remedy):
    with pytest.raises(SettingsError) as refused:
        DecodingSettings(**settings)
    assert value in str(refused.value) and remedy in str(refused.value)


@pytest.fixture
def tokenizer(engines):
    return engines("tiny-u15").tokenizer


def tokens_of(tokenizer, text: bytes) -> list[int]:
    """One token for each byte."""
    return [tokenizer._backend.token_to_id(BYTES[byte]) for byte in text]


def pieces(tokenizer, ids: list[int]) -> list[str]:
    stream = TextStream(tokenizer.decode)
    return [*(stream.push(token) for token in ids), stream.rest()]


@pytest.mark.parametrize("text", ["一只猫", "😀🙂", "naïve 中文 and 😀, mixed\n", "👩‍🚀"])
def test_a_character_comes_whole(tokenizer, text):
    ids = tokens_of(tokenizer, text.encode())
    assert tokenizer.decode(ids) == text
    out = pieces(tokenizer, ids)
    assert [piece for piece in out if piece] == list(text)


def test_an_unfinished_character_is_shown_at_the_end(tokenizer):
    out = pieces(tokenizer, tokens_of(tokenizer, "猫".encode()[:2]))
    assert out == ["", "", "\ufffd"]


def test_bytes_that_are_no_character_are_shown_in_time(tokenizer):
    out = pieces(tokenizer, tokens_of(tokenizer, b"\x80" * 20))
    assert max(len(piece) for piece in out) <= TextStream.HELD_AT_MOST
    assert "".join(out) == "\ufffd" * 20


@each("seed", range(20))
def test_pieces_make_the_whole_text(tokenizer, seed):
    chance = random.Random(seed)
    ids = [chance.randrange(512) for _ in range(60)]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_character_after_bytes_that_are_none_comes_whole(tokenizer):
    ids = tokens_of(tokenizer, b"\x80" * 7 + "猫".encode())
    assert "".join(pieces(tokenizer, ids)) == "\ufffd" * 7 + "猫"
