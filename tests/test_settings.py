"""The one place where every setting is told: defaults, ranges, choices and help."""

import ast
import math
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from sensenova_core import SettingsError
from sensenova_core.settings import (
    ALL_KINDS,
    CorrectionSettings,
    DocumentSettings,
    Guidance,
    LoadSettings,
    ReasoningSettings,
    SamplingSettings,
    Setting,
    settings_of,
)

ROOT = Path(__file__).parents[1]
EVERY = [setting for kind in ALL_KINDS for setting in settings_of(kind).values()]


def refused(setting: Setting, value: object) -> bool:
    try:
        setting.check(value)
    except SettingsError as error:
        assert error.setting == setting.name and error.value is value and error.remedy
        return True
    return False


def test_defaults_pass_their_own_checks():
    assert not [setting for setting in EVERY if refused(setting, setting.default)]
    assert all(kind() == kind.of() for kind in ALL_KINDS)


def test_both_ends_of_a_range_are_in_it_and_what_is_beyond_is_not():
    for setting in EVERY:
        if setting.automatic or setting.kind not in (int, float):
            continue
        for end, beyond in ((setting.low, -1), (setting.high, 1)):
            if math.isfinite(end):
                assert not refused(setting, end) and refused(setting, end + beyond), setting.name
        if math.isfinite(setting.over):
            assert refused(setting, setting.over) and not refused(setting, setting.over + 1e-6), setting.name
        assert refused(setting, "1") and refused(setting, math.nan) and refused(setting, True), setting.name


def test_what_widgets_offer_is_allowed():
    for setting in EVERY:
        if setting.kind in (int, float) and not setting.automatic:
            assert not any(refused(setting, end) for end in setting.usual if math.isfinite(end)), setting.name
            assert setting.usual[0] <= setting.default <= setting.usual[1], setting.name


def test_choices_are_the_only_values():
    for setting in EVERY:
        if setting.choices:
            assert not any(refused(setting, choice) for choice in setting.choices) and refused(setting, "other")


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.__name__)
def test_options_are_unique_in_a_kind_and_flat_values_make_it(kind):
    settings = settings_of(kind)
    assert len({setting.option for setting in settings.values()}) == len(settings)
    defaults = {name: setting.default for name, setting in settings.items()}
    assert kind.of(**defaults) == kind()
    with pytest.raises(TypeError):
        kind.of(nothing=1)


def test_a_name_has_one_option():
    assert len({(setting.name, setting.option) for setting in EVERY}) == len({setting.name for setting in EVERY})


def test_every_field_of_what_is_typed_is_told():
    apart = {(LoadSettings, "device"), (DocumentSettings, "sampling"), (DocumentSettings, "sizes")}
    apart |= {(DocumentSettings, "decoding"), (SamplingSettings, "guidance")}
    apart |= {(CorrectionSettings, "sampling"), (CorrectionSettings, "decoding")}
    for kind in (*ALL_KINDS, Guidance):
        untold = {(kind, each.name) for each in fields(kind) if "setting" not in each.metadata}
        assert untold <= apart


def test_help_is_sentences_and_names_settings_that_are():
    names = {setting.name for setting in EVERY}
    for setting in EVERY:
        text = setting.help_as(lambda name: f"<{name}>" if name in names else "{}")
        assert len(text) > 10 and "{" not in text and text.endswith(".") and "  " not in text, setting.name
        assert not setting.needs or setting.needs in names


def test_reasoning_is_cut_earlier_under_a_name_of_its_own():
    with pytest.raises(SettingsError, match="max_think_tokens is 0; give a whole number from 1"):
        ReasoningSettings(max_tokens=0)


def test_flat_values_are_those_of_a_picture_s_metadata():
    settings = SamplingSettings(64, 96, guidance=Guidance(2.0, 3.0, "global", (0.1, 0.9)), crop=True)
    assert SamplingSettings.of(**settings.as_dict()) == settings
    assert list(settings.as_dict())[-4:] == ["cfg", "img_cfg", "cfg_norm", "cfg_interval"]


def test_an_error_is_told_in_its_reader_s_words():
    error = SettingsError(setting="width", value=70, remedy="give 64", hints={"crop": "with {} it is cut"})
    assert str(error) == "width is 70; give 64; with crop it is cut"
    assert error.in_words({"width": "--width"}.get) == "--width is 70; give 64"
    error = SettingsError("is odd", setting="loras", subject="the strength of {a}")
    assert error.in_words(lambda name: f"--{name}") == "the strength of {a} is odd"


def test_nothing_heavy_is_imported():
    heavy = "('torch', 'PIL', 'transformers', 'numpy')"
    script = f"import sensenova_core.settings, sys; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_command_line_says_no_default_or_choice_of_a_setting_again():
    own = {("inspect", "--dtype"), ("chat", "--system-message"), ("generate", "--think")}  # which mean something else
    own |= {("self_correction", "--self-correct")}  # which is off unless given, with or without its number
    flags, again = {"--" + setting.option.replace("_", "-") for setting in EVERY}, set()
    for path in (ROOT / "sensenova_core/cli").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument":
                names = {name.value for name in call.args if isinstance(name, ast.Constant)}
                again |= {(path.stem, name) for name in names & flags}
    assert again == own
