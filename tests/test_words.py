"""The words beside parameters, from the source to the docstring."""
import inspect

import pytest

from dynaseg.words import Parameter, described, parameters, section

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
                           Parameter("b", "list[int]", "[1, 2]", "with # a hash", "Second group"), Parameter("c", "str", "'# no comment'", "", "Second group"),
                           Parameter("**rest", "", "", "to g", "Second group")], "pixels")
    assert found["Pair"][0] == [Parameter("x", "float", "", "left", ""), Parameter("y", "float", "0.5", "right", "")]
    assert found["Thing.grow"] == ([Parameter("by", "int", "1", "pixels", "")], "itself")


def test_sections_in_numpydocs_form():
    assert described("Pair", SOURCE) == "\n\nAttributes\n----------\nx : float\n    left\ny : float, default 0.5\n    right"
    assert described("Thing", SOURCE) == "\n\nParameters\n----------\nsize : int\n    of it"
    assert described("f", SOURCE, {"a": "[3]"}, {"b": "some numbers"}).startswith(
        "\n\nParameters\n----------\na\n    first [3]\n*more : int\n    others\nb : some numbers, default [1, 2]\n    with # a hash\n")
    assert described("f", SOURCE).endswith("\n\nReturns\n-------\npixels") and section([]) == ""


MODULES = ("labels", "network", "loss", "weighting", "silhouette", "fit", "outlines", "granularity", "segmenter", "many", "datasets", "metrics")


@pytest.mark.parametrize("name", MODULES)
def test_help_shows_every_parameter(name):
    "Of every public function and class of the module, at run time."
    import importlib
    module = importlib.import_module(f"dynaseg.{name}")
    for label in module.__all__:
        thing = getattr(module, label)
        if not inspect.isfunction(thing) or thing.__module__ != module.__name__: continue
        for parameter in inspect.signature(thing).parameters.values():
            stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
            assert f"\n{stars}{parameter.name}" in thing.__doc__, f"{label}: {parameter.name}"
