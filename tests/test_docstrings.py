"""The words beside parameters, from the source to the docstring."""
import importlib
import inspect
import re

import pytest

from dynaseg.docstrings import Parameter, described, parameters, section

SOURCE = '''
from typing import NamedTuple

def f(
    a, # first
    *more: int, # others
    # Second group
    b: list[int] = [1, 2], # with # a hash
    c: str = "# no comment",
    **rest, # to g
) -> int: # pixels
    "Does something."

def plain(x): return x # not of x alone

class Pair(NamedTuple):
    "Two."
    x: float # left
    y: float = 0.5 # right

class Thing:
    "A thing."
    def __init__(self,
        size: int, # of it
    ): ...

    def grow(self,
        by: int = 1, # pixels
    ) -> "Thing": # itself
        "Larger."
'''


def test_what_is_found():
    found = parameters(SOURCE)
    assert found["f"] == ([Parameter("a", "", "", "first", ""), Parameter("*more", "int", "", "others", ""),
                           Parameter("b", "list[int]", "[1, 2]", "with # a hash", "Second group"),
                           Parameter("c", "str", "'# no comment'", "", "Second group"),
                           Parameter("**rest", "", "", "to g", "Second group")], "pixels")
    assert found["Pair"][0] == [Parameter("x", "float", "", "left", ""), Parameter("y", "float", "0.5", "right", "")]
    assert found["Thing.grow"] == ([Parameter("by", "int", "1", "pixels", "")], "itself")


ABOVE = '''
def f(
    a: int, # beside
    # above b
    b: int = 1,
    # Group

    # two lines
    #   above c
    c: int = 2,
    # Another group
    d: int = 3, # beside again
    e: int = 4,
): ...

class Pair(NamedTuple):
    "Two."
    # left, which has
    # two lines
    x: float
    y: float # right
'''


def test_long_words_stand_above_the_parameter():
    found = parameters(ABOVE)
    assert [(p.name, p.words, p.group) for p in found["f"][0]] == [
        ("a", "beside", ""), ("b", "above b", ""), ("c", "two lines above c", "Group"),
        ("d", "beside again", "Another group"), ("e", "", "Another group")]
    assert [p.words for p in found["Pair"][0]] == ["left, which has two lines", "right"]


def test_the_site_reads_words_above_as_help_does(tmp_path, monkeypatch):
    "The site's tables are nbdev's, which reads comments with fastcore."
    docments = pytest.importorskip("fastcore.docments").docments
    (tmp_path / "with_words_above.py").write_text("from typing import NamedTuple\n" + ABOVE)
    monkeypatch.syspath_prepend(tmp_path)
    shown = docments(importlib.import_module("with_words_above").f, full=True)
    for parameter in parameters(ABOVE)["f"][0]:
        said = shown[parameter.name]["docment"]
        assert " ".join((said or "").split()) == parameter.words


def test_sections_in_numpydocs_form():
    assert (described("Pair", SOURCE)
            == "\n\nAttributes\n----------\nx : float\n    left\ny : float, default 0.5\n    right")
    assert described("Thing", SOURCE) == "\n\nParameters\n----------\nsize : int\n    of it"
    assert described("f", SOURCE, {"a": "[3]"}, {"b": "some numbers"}).startswith(
        "\n\nParameters\n----------\na\n    first [3]\n*more : int\n    others\nb : some numbers, default [1, 2]\n    "
        "with # a hash\n")
    assert described("f", SOURCE).endswith("\n\nReturns\n-------\npixels") and section([]) == ""


OPTIONAL = '''
def f(
    a: int | None = None, # pixels; by default all of them
    b: int | str | None = 3, # or None: nothing
): ...

@dataclass
class Result:
    "Three."
    floor: int | None # None: there is none
    valid: list | None = None # None: all
    meta: dict = field(default_factory=dict) # facts
'''


def test_none_is_no_default_that_help_shows():
    "What happens without a setting is in its words; a field that may be None says so."
    assert described("f", OPTIONAL) == ("\n\nParameters\n----------\na : int, optional\n    pixels; by default all of "
                                        "them\nb : int | str | None, default 3\n    or None: nothing")
    assert described("Result", OPTIONAL) == ("\n\nAttributes\n----------\nfloor : int or None\n    None: there is none"
                                             "\nvalid : list or None\n    None: all\nmeta : dict\n    facts")


def test_long_words_are_wrapped():
    long = SOURCE.replace("# first", "# " + "word " * 40)
    lines = described("f", long).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if "word" in line] == [f"    {' '.join(['word'] * 15)}"] * 2 + [
        f"    {' '.join(['word'] * 10)}"]


QUESTIONS = ("n_segments", "n_clusters", "pages", "scribbles", "callback") # without them nothing is asked, or added


def test_help_says_what_happens_without_each_setting():
    from dynaseg import segment
    assert "| None" not in segment.__doc__ and "default None" not in segment.__doc__
    assert "Returns\n-------\nthe result; with" in segment.__doc__
    sections = re.split(r"\n(?=\w+ : )", segment.__doc__)
    words = {section.partition(" : ")[0]: " ".join(section.split()) for section in sections[1:]}
    unsaid = [name for name, p in inspect.signature(segment).parameters.items() if p.default is None
              and name not in QUESTIONS and not re.search(r"by default|\[default: ", words[name])]
    assert unsaid == []
    for name in ("n_segments", "n_clusters", "level"): assert "not together with" in words[name]


MODULES = ("images", "labels", "network", "loss", "weighting", "silhouette", "fit", "merging", "granularity",
           "matching", "segmenter", "many", "together", "sequence", "datasets", "metrics", "extractors",
           "pretrained", "batch", "widgets", "speed", "benchmark")


@pytest.mark.parametrize("name", MODULES)
def test_help_shows_every_parameter(name):
    "Of every public function and class of the module, at run time."
    module = importlib.import_module(f"dynaseg.{name}")
    for label in module.__all__:
        thing = getattr(module, label)
        if not inspect.isfunction(thing) or thing.__module__ != module.__name__: continue
        for parameter in inspect.signature(thing).parameters.values():
            stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
            assert f"\n{stars}{parameter.name}" in thing.__doc__, f"{label}: {parameter.name}"


def documented(thing):
    "Parameters in the sections of a docstring, with the words below each."
    return dict(re.findall(r"^(\*{0,2}\w+)(?: :[^\n]*)?\n    (\S[^\n]*)", thing.__doc__ or "", re.MULTILINE))


def public(module):
    "What a module exports and defines: functions, classes, and the classes' own public methods, by name."
    for label in module.__all__:
        thing = getattr(module, label)
        if getattr(thing, "__module__",
                   "") != module.__name__ or not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        yield label, thing
        if not inspect.isclass(thing): continue
        foreign = [base for base in thing.__mro__ if not base.__module__.startswith("dynaseg")]
        for name, method in vars(thing).items():
            if name.startswith("_") or any(hasattr(base, name) for base in foreign):
                continue  # `forward` is PyTorch's, `fit` scikit-learn's
            if inspect.isfunction(method): yield f"{label}.{name}", method


def names_of(thing):
    "The parameters that have to be explained; the fields of a named tuple or a data class are such too."
    own = [p for p in inspect.signature(thing).parameters.values() if p.name != "self"]
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [stars.get(p.kind, "") + p.name for p in own if not p.name.startswith("_")]


@pytest.mark.parametrize("name", MODULES)
def test_no_parameter_lacks_its_words(name):
    "At run time, where `help` and an editor look: of functions, classes and methods."
    module = importlib.import_module(f"dynaseg.{name}")
    lacking = []
    for label, thing in public(module):
        if inspect.isclass(thing) and (issubclass(thing, Exception) or "__init__" not in vars(thing)
                                       and not hasattr(thing, "__annotations__")):
            continue
        words = documented(thing)
        lacking += [f"{label}({parameter})" for parameter in names_of(thing) if parameter not in words]
    assert lacking == []


def test_a_parameter_without_words_is_found():
    def f(a, b): "Text.\n\nParameters\n----------\na : int\n    of it\nb : int"
    assert documented(f) == {"a": "of it"} and names_of(f) == ["a", "b"]
