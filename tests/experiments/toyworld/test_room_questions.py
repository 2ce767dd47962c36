"""Toy questions: the pixels alone give every answer, and guessing none."""

from collections import Counter, defaultdict
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from experiments.toyworld import sample_scene
from experiments.toyworld.questions import (
    COMPARISONS,
    ONE_OBJECT,
    THREE_D,
    ToyQuestion,
    questions,
)
from experiments.toyworld.render import Rendered
from experiments.toyworld.scene import COLOURS, SHAPES, Scene

worlds = st.builds(sample_scene, st.integers(0, 2**31), st.integers(0, 9999))


class Looker:
    """Answers questions from pixels: object numbers, depth and colour, never from placements."""

    def __init__(self, scene: Scene, rendered: Rendered) -> None:
        masks = [rendered.objects == k for k in range(rendered.objects.max() + 1)]
        self.colours = [self._colour(rendered, mask) for mask in masks]
        self.shapes = [o.shape for o in scene.objects]  # the only thing taken on trust
        self.places = [self._places(mask) for mask in masks]  # K of (T, 2)
        self.metres = [float(np.median(rendered.depth[mask])) / 1000 for mask in masks]

    @staticmethod
    def _colour(rendered: Rendered, mask: Any) -> str:
        pixels = rendered.colour[mask].astype(float)
        brightest = pixels[pixels.sum(-1).argmax()]
        lit = {name: np.array(rgb) for name, rgb in COLOURS.items()}
        shades = [(name, s * rgb) for name, rgb in lit.items() for s in np.linspace(0.55, 1, 19)]
        return min(shades, key=lambda shade: float(np.abs(shade[1] - brightest).sum()))[0]

    @staticmethod
    def _places(mask: Any) -> Any:
        return np.array([np.argwhere(frame).mean(0)[::-1] - 31.5 for frame in mask])

    def find(self, name: str) -> int:
        known = self.colours if name in COLOURS else self.shapes
        (found,) = [k for k, known_name in enumerate(known) if known_name == name]
        return found

    def band(self, k: int) -> str:
        return "near" if self.metres[k] < 0.38 else "middle" if self.metres[k] < 0.8 else "far"

    def side(self, values: Any, words: tuple[str, str]) -> str:
        assert (np.sign(values) == np.sign(values[0])).all(), "frames disagree"
        return words[int(values[0] > 0)]

    def answer(self, question: ToyQuestion) -> str:
        words = question.text.rstrip("?").replace(",", "").split()
        named = [word for word in words if word in COLOURS or word in SHAPES]
        kind = question.kind
        if kind in {*COMPARISONS, "closer", "in front"}:
            return self._compare(kind, named)
        match kind:
            case "count":
                return ("no", "one", "two", "three", "four")[len(self.colours)]
            case "colour":
                return self.colours[self.find(named[0])]
            case "shape":
                return self.shapes[self.find(named[0])]
            case "exists":
                there = list(zip(self.colours, self.shapes, strict=True))
                return "yes" if (named[0], named[1]) in there else "no"
            case "distance":
                return self.band(self.find(named[0]))
        axis, sides = (0, ("left", "right")) if "left" in words else (1, ("top", "bottom"))
        return self.side(self.places[self.find(named[0])][:, axis], sides)

    def _compare(self, kind: str, named: list[str]) -> str:
        first, second = map(self.find, named)
        nearer = self.metres[first] < self.metres[second]
        if kind == "closer":
            return named[0] if nearer else named[1]
        if kind == "in front":
            return "yes" if nearer else "no"
        apart = self.places[first] - self.places[second]
        return self.side(apart[:, COMPARISONS.index(kind)], ("yes", "no"))


def test_pixels_give_every_answer(rooms: list[tuple[Scene, Rendered]]) -> None:
    seen: Counter[str] = Counter()
    for scene, rendered in rooms:
        looker = Looker(scene, rendered)
        for question in questions(scene):
            assert looker.answer(question) == question.answer, (scene.name, question)
            seen[question.kind] += 1
    assert min(seen[kind] for kind in (*ONE_OBJECT, *COMPARISONS, *THREE_D)) >= 30


def test_no_kind_is_won_by_guessing() -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for i in range(800):
        for question in questions(sample_scene(11, i)):
            answers[question.kind][question.answer] += 1
    for kind in ("exists", *COMPARISONS, "in front"):
        assert answers[kind]["yes"] == answers[kind]["no"], kind
    for kind in ("colour", "shape", "count", "where", "distance", "closer"):
        counts = answers[kind].values()
        assert max(counts) / sum(counts) < 1.3 / len(counts), kind


@given(worlds)
def test_no_question_is_asked_twice(scene: Scene) -> None:
    asked = questions(scene)
    assert len({question.text for question in asked}) == len(asked)
