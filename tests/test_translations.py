"""The Chinese pages are of the English as it is now. What needs the nodes is in tests/live/test_translations.py."""

import json
import re

import pytest

from tools import readme_tables
from tools.translations import pages, strings

# Markdown takes no * for an end between such a mark and a letter: a space after it is needed.
NO_END = re.compile(r"[）”]\*+\w")


@pytest.fixture
def page(tmp_path, monkeypatch):
    """An English help page and its Chinese one, alone in a house."""
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "HELP", tmp_path)
    monkeypatch.setattr(readme_tables, "README", tmp_path / "README")
    monkeypatch.setattr(readme_tables, "README_CN", tmp_path / "README_CN")
    english = tmp_path / "Node.md"
    (tmp_path / "Node").mkdir()
    for path, text in (
        (english, "# Draw\n<!-- drawing -->\n50\n<!-- end -->\n"),
        (tmp_path / "Node/zh.md", "# 绘制\n"),
        (tmp_path / "README", "Read"),
        (tmp_path / "README_CN", "读"),
    ):
        path.write_text(text, encoding="utf-8")
    for each in (english, tmp_path / "README"):
        pages.accept(each)
    return english


def test_every_page_is_of_the_english_text():
    assert pages.stale() == {}
    assert pages.strays() == []


def test_a_page_is_stale_once_the_english_words_change(page):
    assert pages.stale() == {}
    page.write_text(page.read_text(encoding="utf-8").replace("Draw", "Paint"), encoding="utf-8")
    assert "python -m tools.translations changed Node.md" in pages.stale()["Node.md"]
    pages.accept(page)
    assert pages.stale() == {}
    assert page.with_name("Node").joinpath("zh.md").read_text(encoding="utf-8").count("<!--") == 1


def test_a_table_that_is_written_by_itself_makes_no_page_stale(page):
    page.write_text(page.read_text(encoding="utf-8").replace("50", "8"), encoding="utf-8")
    assert pages.stale() == {}


def test_a_page_without_a_translation_is_named_and_one_without_english(page):
    (page.parent / "Gone").mkdir()
    page.with_name("Node").joinpath("zh.md").rename(page.parent / "Gone/zh.md")
    assert "has no translation" in pages.stale()["Node.md"]
    assert pages.strays() == [page.parent / "Gone/zh.md"]


def test_help_pages_begin_with_what_the_node_is_called():
    nodes = json.loads((strings.LOCALE / "nodeDefs.json").read_text(encoding="utf-8"))
    for id, node in nodes.items():
        _, title, *_ = (pages.HELP / id / "zh.md").read_text(encoding="utf-8").splitlines()
        assert title == f"# {node['display_name']}"


def test_emphasis_ends_where_it_should():
    for path in pages.pages().values():
        assert NO_END.findall(path.read_text(encoding="utf-8")) == [], path


def test_the_readme_s_tables_are_the_settings_in_chinese():
    assert [text for text in strings.english_of_tables() if text not in strings.chinese()] == []
    english, chinese = (path.read_text(encoding="utf-8") for path in (readme_tables.README, readme_tables.README_CN))
    assert chinese == readme_tables.written(chinese, readme_tables.in_chinese), "run python -m tools.readme_tables"
    assert readme_tables.TABLE.findall(chinese) == readme_tables.TABLE.findall(english)


def test_what_the_editor_reads_as_a_pattern_has_no_signs_of_one():
    nodes = json.loads((strings.LOCALE / "nodeDefs.json").read_text(encoding="utf-8"))
    assert [text for text in strings.patterns(nodes) if set(text) & set(strings.SPECIAL)] == []


def test_every_chinese_string_is_there_and_keeps_the_words_that_are_typed():
    """Choices, file names and numbers stay as they are."""
    for english, chinese in strings.chinese().items():
        assert chinese.strip() == chinese != "", english
        for typed in re.findall(r"--[a-z-]+|\.\w{4,}\b|<image>|\d+x\d+|\d+GiB", english):
            assert typed in chinese, (english, typed)
