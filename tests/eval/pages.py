"""What is looked for in pages, and what must never become a part of one."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror="alert(2)">', "{{ 7 * 7 }} 'quoted' & \N{SNOWMAN}")


class Page(HTMLParser):
    """Everything in a page that matters here."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, *names: str) -> list[str]:
        return [value for _, name, value in self.attributes if name in names]
