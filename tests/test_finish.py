"""The repairs of pages, on pages written by hand in the form that Quarto 1.10 gives them (`tests/quarto`)."""
import re
import shutil
from pathlib import Path

import pytest
from scripts import script

ROOT = Path(__file__).resolve().parent.parent
PAGES = Path(__file__).resolve().parent / "quarto"


@pytest.fixture(scope="module")
def finish():
    return script("finish")


@pytest.fixture
def repaired(finish, tmp_path):
    "The pages after every repair, by name; and as they were."
    shutil.copytree(PAGES, tmp_path / "site")
    finish.finish(tmp_path / "site")
    return {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "site").glob("*.html")}


def raw(name): return (PAGES / name).read_text(encoding="utf-8")


def active(page): return re.findall(r'class="nav-link active"[^>]*>\s*<span class="menu-text">(\w+)', page)


def test_the_navbar_marks_the_part_of_the_page(repaired):
    "Quarto marks Start on every page."
    assert active(raw("many.html")) == active(raw("index.html")) == ["Start"]
    assert active(repaired["many.html"]) == ["Learn"] and active(repaired["index.html"]) == ["Start"]
    assert repaired["many.html"].count("aria-current") == 1


def test_no_script_is_fetched(repaired):
    assert raw("index.html").count("cdnjs") == 2
    assert "cdnjs" not in repaired["index.html"] and "define('jquery'" not in repaired["index.html"]
    assert 'src="site_libs/quarto-html/quarto.js"' in repaired["index.html"]  # its own scripts stay


def test_a_picture_gets_its_caption_as_text_alternative(repaired):
    assert 'alt="Four photos; below each, &quot;what&quot; dynaseg found in it"' in repaired["index.html"]
    assert repaired["index.html"].count(" alt=") == raw("index.html").count(" alt=") + 1


def test_maths_as_browsers_draw_it(repaired):
    page = repaired["many.html"]
    assert '<mrow><mi>q</mi><mo lspace="0" rspace="0">′</mo></mrow>' in page and "<msup><mi>q</mi>" not in page
    assert '<mi>log</mi><mspace width="0.17em"/><mi>x</mi>' in page
    # the TeX stays as it was
    assert r"<annotation encoding=\"application/x-tex\">q' = \log x</annotation>".replace('\\"', '"') in page
    assert page.count('lspace="0.06em"') == 2


def test_a_keyboard_scrolls_what_is_wide(repaired):
    page = repaired["many.html"]
    assert '<pre tabindex="0"' in page
    assert '<table tabindex="0"' in page
    assert re.search(r'<math tabindex="0"[^>]*display="block"', page)


def test_a_second_time_changes_nothing(finish, repaired):
    for page in repaired.values(): assert finish.repaired(page) == page


def test_no_stylesheet_fetches_a_font(finish):
    assert (finish.without_foreign_fonts('@import url("https://fonts.googleapis.com/css2?family=A&display=swap");p{}')
            == "p{}")
    assert finish.without_foreign_fonts("@import 'own.css';p{}") == "@import 'own.css';p{}"
