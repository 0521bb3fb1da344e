"""Markdown that shows a text as it is."""

import html
import re

import pytest

from sensenova_core.report.markdown import escaped

TEXTS = [
    "# Title\n\n- a\n- b\n\n1. x\n2) y\n\n> quote\n---\n***\n===\n___",
    "![x](http://evil/x.png) [a](http://b.c) <img src=x onerror=y> <script>alert(1)</script>",
    "[r]\n\n[r]: http://x.y/z.png 'title'\n![r] [r][r] [^1]\n\n[^1]: foot",
    "```\ncode\n```\n    indented\n\ttab\n  \tmixed\n~~~\nx",
    "**b** __c__ ~~d~~ `e` ==f== $x$ $$y$$ \\(z\\) ^up^ %%gone%%",
    "| a | b |\n| - | - |\n| c | d |",
    "\\*x\\* \\ &lt;b&gt; &copy; &#60; &#x3c;",
    "<think>hm</think> <!-- x --> <?php ?> <![CDATA[x]]> <https://x.y> <a@b.co>",
    "a\r\n# b\r# c\n\n \n* d",
    "Title\n-----\nTitle\n  ===\nterm\n: meaning",
    "snake_case_x 3.5 e.g. 1. x, 12. y\n3. z",
    "+ a\n* b\n  - [ ] c\n   # d\n-",
]


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_is_markup(text):
    """For a reader that knows all of CommonMark, tables and strikethrough."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt("js-default", {"html": True})
    shown = markdown.render(escaped(text))
    assert set(re.findall(r"<(\w+)", shown)) <= {"p", "br"}
    plain = html.unescape(re.sub(r"<[^>]*>", "", shown))
    assert plain.replace("\u2060", "").split() == text.split()


@pytest.mark.parametrize("text", TEXTS)
def test_no_sign_of_markup_is_left(text):
    for sign in ("![", "](", "<", "**", "__", "~~", "```", "||", "p://", "%%"):
        assert sign not in escaped(text).replace("\\\\", "")


@pytest.mark.parametrize("text", ["http://evil.com/a", "https://a.b", "www.evil.com", "a.person@b.co", "mailto:a@b.co"])
def test_addresses_are_no_links(text):
    assert not re.search(r"\w://|www\.|\w@\w|mailto:\w|\w\.\w", escaped(text))


@pytest.mark.parametrize(
    "text", ["", "Once upon a time, there was a cat.", "一只猫。\n\n下一段", 'It\'s "so"; 50 % (yes)?']
)
def test_plain_words_stay(text):
    assert escaped(text).replace("\\(", "(").replace("\\)", ")") == text
