"""Moving shapes: what a clip of the toy world shows, says and asks."""

import itertools
from dataclasses import dataclass
from random import Random

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from ringworld.data.samples import Question
from ringworld.quickstart.config import ToyWorldConfig

COLORS = {
    "red": (226, 44, 44),
    "green": (40, 190, 70),
    "blue": (50, 90, 240),
    "yellow": (245, 215, 40),
    "purple": (180, 60, 220),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
Pose = tuple[str, str, tuple[float, float]]
"""Color, shape and place: all that a frame shows."""
_BACKGROUND = (24, 24, 32)
_OVERSAMPLING = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One shape that moves in a straight line."""

    color: str
    shape: str
    direction: str
    start: tuple[float, float]
    """Left and top edge of the shape in the first frame, in pixels."""
    seconds: float

    @property
    def words(self) -> str:
        """What a caption says of it."""
        return f"a {self.color} {self.shape} moves {self.direction}"


def draw_scenes(random: Random, config: ToyWorldConfig) -> tuple[Scene, ...]:
    """Choose one scene, or two that a cut parts, which then differ in color and shape."""
    has_cut = random.random() < config.cut_fraction
    colors = random.sample(list(COLORS), 2)
    shapes = random.sample(SHAPES, 2)
    parts = 2 if has_cut else 1
    seconds = config.clip_seconds / parts
    directions = [random.choice(list(DIRECTIONS)) for _ in range(parts)]
    return tuple(
        Scene(color=c, shape=s, direction=d, start=_start(random, d, seconds, config), seconds=seconds)
        for c, s, d in zip(colors[:parts], shapes[:parts], directions)
    )


def caption(scenes: tuple[Scene, ...]) -> str:
    """Return what happens in words: "A red circle moves right, then a blue square moves up."."""
    words = ", then ".join(scene.words for scene in scenes)
    return f"{words[0].upper()}{words[1:]}."


def questions(scenes: tuple[Scene, ...]) -> tuple[Question, ...]:
    """Ask for color, shape and direction of each scene."""
    parts = ("",) if len(scenes) == 1 else (" at first", " after the cut")
    asked = [
        ("What color is the shape", "color"),
        ("What is the shape", "shape"),
        ("Which way does it move", "direction"),
    ]
    return tuple(
        Question(question=f"{words}{part}?", answer=getattr(scene, field))
        for (scene, part), (words, field) in itertools.product(zip(scenes, parts), asked)
    )


def render(scenes: tuple[Scene, ...], config: ToyWorldConfig) -> UInt8[np.ndarray, "frames side side 3"]:
    """Draw the scenes one after another."""
    return np.stack([_draw(pose, config) for scene in scenes for pose in poses(scene, config)])


def poses(scene: Scene, config: ToyWorldConfig) -> tuple[Pose, ...]:
    """Return what each frame of a scene shows."""
    (left, top), (right, down), rate = scene.start, DIRECTIONS[scene.direction], config.frames_per_second
    moved = [config.speed_pixels * (i / rate) for i in range(max(1, round(scene.seconds * rate)))]
    places = [(_on_grid(left + right * by, config), _on_grid(top + down * by, config)) for by in moved]
    return tuple((scene.color, scene.shape, place) for place in places)


def _start(random: Random, direction: str, seconds: float, config: ToyWorldConfig) -> tuple[float, float]:
    """Choose where a scene begins, so that the shape never leaves the frame."""
    travel = config.speed_pixels * seconds
    edges = []
    for step in DIRECTIONS[direction]:
        low, high = -min(0, step) * travel, config.room_pixels - max(0, step) * travel
        edges.append(_on_grid(random.uniform(low, high), config))
    return edges[0], edges[1]


def _on_grid(pixels: float, config: ToyWorldConfig) -> float:
    step = config.grid_pixels
    return float(min(round(pixels / step), config.room_pixels // step) * step) if step else pixels


def _draw(pose: Pose, config: ToyWorldConfig) -> UInt8[np.ndarray, "side side 3"]:
    side = config.frame_pixels * _OVERSAMPLING
    image = Image.new("RGB", (side, side), _BACKGROUND)
    _draw_shape(ImageDraw.Draw(image), pose, config.shape_pixels)
    return np.asarray(image.resize((config.frame_pixels, config.frame_pixels), Image.Resampling.BOX))


def _draw_shape(draw: ImageDraw.ImageDraw, pose: Pose, side: int) -> None:
    name, shape, (left, top) = pose

    def pixel(x: float, y: float) -> tuple[float, float]:
        return (left + x * side) * _OVERSAMPLING, (top + y * side) * _OVERSAMPLING

    # Pillow draws the last pixel of a box too.
    inner = 1 - 1 / (side * _OVERSAMPLING)
    color = COLORS[name]
    match shape:
        case "circle":
            draw.ellipse([pixel(0.0, 0.0), pixel(inner, inner)], fill=color)
        case "square":
            draw.rectangle([pixel(0.0, 0.0), pixel(inner, inner)], fill=color)
        case "triangle":
            draw.polygon([pixel(0.5, 0.0), pixel(0.0, inner), pixel(inner, inner)], fill=color)
        case "cross":
            draw.rectangle([pixel(1 / 3, 0.0), pixel(2 / 3 * inner, inner)], fill=color)
            draw.rectangle([pixel(0.0, 1 / 3), pixel(inner, 2 / 3 * inner)], fill=color)
