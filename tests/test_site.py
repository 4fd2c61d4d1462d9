"""The documentation's site: what `make docs`, which checks links and references, does not."""

import re
import tomllib

from tests.folders import PROJECT

DOCS = PROJECT / "docs"


def entries(nav: list | dict | str) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in entries(entry)]


def test_every_page_is_in_the_navigation():
    nav = tomllib.loads((PROJECT / "zensical.toml").read_text())["project"]["nav"]
    assert sorted(entries(nav)) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_pictures_are_in_the_sites_folder():
    for page in DOCS.rglob("*.md"):
        for picture in re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", page.read_text()):
            path = (page.parent / picture).resolve()
            assert path.is_file(), f"{page.name}: {picture}"
            assert path.is_relative_to(DOCS), f"{page.name}: {picture}"
