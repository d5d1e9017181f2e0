"""Renderer of synthetic videos of twelve motions, which only motion tells apart.

A scene is one object before a textured background, with some objects at rest beside it. The motion moves
the object through a world that wraps around, or turns, resizes or recolours it:

    state      drawn alike for every motion          after the motion
    position   uniform over the world                translation, ballistic bounce, circle: still uniform
    angle      uniform                               rotation: still uniform
    size       log-uniform on SIZES                  sawtooth with a random phase: still log-uniform
    colour     one of a scene's two, equally likely  blinking: still equally likely

So one frame of any motion has the same distribution as one frame of any other, and only change tells.
Time is continuous (seconds) and the world is measured in frame heights, so that the same scene can be
rendered at any frame rate and size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Frames = NDArray[np.uint8]

# Names of motions -> labels, in the order of the classes.
MOTIONS: dict[str, str] = {
    "move_left": "moving left",
    "move_right": "moving right",
    "move_up": "moving up",
    "move_down": "moving down",
    "rotate_clockwise": "rotating clockwise",
    "rotate_counterclockwise": "rotating counterclockwise",
    "grow": "growing",
    "shrink": "shrinking",
    "bounce": "bouncing",
    "blink": "blinking",
    "circle_clockwise": "circling clockwise",
    "circle_counterclockwise": "circling counterclockwise",
}
LABELS: tuple[str, ...] = tuple(MOTIONS.values())
# Motions that the demo model does not learn, to see what it makes of them.
UNSEEN_MOTIONS: dict[str, str] = {"swing": "swinging"}

SIZES = (0.10, 0.25)  # half-extent of an object, in frame heights
SPEED = (0.35, 0.90)  # frame heights per second
TURN_RATE = (0.30, 0.80)  # turns per second
GROWTH_SECONDS = (0.9, 2.0)  # from the smallest size to the largest
BOUNCE_SECONDS = (0.8, 1.4)
BOUNCE_HEIGHT = (0.25, 0.45)
BLINK_SECONDS = (0.5, 1.2)  # on and off
CIRCLE_SECONDS = (1.6, 3.2)
CIRCLE_RADIUS = (0.14, 0.26)
SWING_SECONDS = (0.8, 1.6)  # there and back
SWING_ANGLE = (0.4, 0.9)  # to each side, in radians
COLOUR_DISTANCE = 0.45  # between either colour and the background, and between the two, in RGB of [0, 1]

# Shapes are unions of convex pieces, a piece being rows (nx, ny, d): inside is n . p <= d for every row.
# None looks the same after part of a turn, so that every rotation shows.
Shape = tuple[NDArray[np.float32], ...]


def _box(left: float, top: float, right: float, bottom: float) -> NDArray[np.float32]:
    return np.array([[-1, 0, -left], [0, -1, -top], [1, 0, right], [0, 1, bottom]], dtype=np.float32)


def _polygon(*points: tuple[float, float]) -> NDArray[np.float32]:
    """Return half planes of a convex polygon whose corners run clockwise on screen (y points down)."""
    corners = np.array(points)
    edges = np.roll(corners, -1, axis=0) - corners
    normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1) / np.linalg.norm(edges, axis=1, keepdims=True)
    return np.column_stack([normals, (normals * corners).sum(axis=1)]).astype(np.float32)


SHAPES: dict[str, Shape] = {
    "ell": (_box(-0.7, -0.9, -0.1, 0.9), _box(-0.7, 0.3, 0.8, 0.9)),
    "tee": (_box(-0.8, -0.9, 0.8, -0.3), _box(-0.3, -0.9, 0.3, 0.9)),
    "flag": (_box(-0.6, -0.95, -0.2, 0.95), _polygon((-0.6, -0.95), (0.9, -0.4), (-0.6, 0.15))),
    "arrow": (_polygon((0.0, -1.0), (0.85, 0.0), (-0.85, 0.0)), _box(-0.3, -0.1, 0.3, 0.9)),
    "dart": (_polygon((0.0, -1.0), (0.6, 0.8), (-0.6, 0.8)),),
    "house": (_polygon((0.0, -0.95), (0.7, -0.2), (0.7, 0.8), (-0.7, 0.8), (-0.7, -0.2)),),
}
SHAPE_REACH = 1.25  # farthest corner from the centre, in sizes


@dataclass(frozen=True)
class States:
    """States of the moving object over time; arrays are [F] or, for ``colour``, [F, 3] RGB in [0, 1].

    The x axis points right, y down, angles (radians) grow clockwise on screen.
    """

    x: Floats
    y: Floats
    angle: Floats
    size: Floats
    colour: Floats

    def __getitem__(self, moments: slice) -> Self:
        return type(self)(*(values[moments] for values in vars(self).values()))


@dataclass(frozen=True)
class Item:
    """Object at rest, from which a motion starts."""

    shape: str
    x: float
    y: float
    angle: float
    size: float
    colours: Floats  # [2, 3] RGB in [0, 1]; at rest the first is shown

    def at_rest(self, moments: int = 1) -> States:
        """Return its states at ``moments`` times."""
        x, y, angle, size = np.full((moments, 4), (self.x, self.y, self.angle, self.size)).T
        return States(x, y, angle, size, self.colours[np.zeros(moments, dtype=np.intp)])


@dataclass(frozen=True)
class Scene:
    """Random properties of a clip, except motion, speed and phase."""

    world_width: float  # frame heights; the world wraps around at it, and at height 1
    item: Item
    others: tuple[Item, ...]
    background: Floats  # [3] mean RGB
    waves: Floats  # [K, 6] cosines of the texture: cycles along x and y, phase, amplitude in R, G, B
    noise: float  # standard deviation of each pixel of each frame, in [0, 1]
    softness: float  # width of an edge, in frame heights


def sample_scene(rng: np.random.Generator, world_width: float = 1.0) -> Scene:
    """Draw a scene whose objects lie in the central square of the world."""
    background = rng.uniform(0.15, 0.85, 3)
    waves = np.column_stack(
        [
            rng.integers(-5, 6, (5, 2)),
            rng.uniform(0, 2 * np.pi, 5),
            rng.normal(0, rng.uniform(0.01, 0.05), (5, 3)),
        ]
    )
    items = [_sample_item(rng, world_width, background) for _ in range(1 + rng.choice(3, p=[0.5, 0.3, 0.2]))]
    return Scene(
        world_width,
        items[0],
        tuple(items[1:]),
        background,
        waves,
        noise=rng.uniform(0.0, 0.02),
        softness=rng.uniform(1.0, 1.6) / 64,
    )


def _sample_item(rng: np.random.Generator, world_width: float, background: Floats) -> Item:
    colours: list[Floats] = []
    while len(colours) < 2:
        colour = rng.uniform(0, 1, 3)
        if all(np.linalg.norm(colour - other) > COLOUR_DISTANCE for other in [background, *colours]):
            colours.append(colour)
    return Item(
        shape=str(rng.choice(list(SHAPES))),
        x=world_width / 2 + rng.uniform(-0.5, 0.5),
        y=rng.uniform(0, 1),
        angle=rng.uniform(0, 2 * np.pi),
        size=float(np.exp(rng.uniform(*np.log(SIZES)))),
        colours=np.array(colours),
    )


def trajectory(item: Item, motion: str, seconds: Floats, rng: np.random.Generator) -> States:
    """Return the states of ``item`` during ``motion`` at the times ``seconds`` [F].

    Speed and phase are drawn from ``rng``.

    Raises:
        KeyError: a motion not in ``MOTIONS`` or ``UNSEEN_MOTIONS``.
    """
    t = np.asarray(seconds, dtype=np.float64)
    rest = item.at_rest(len(t))
    x, y, angle, size, colour = rest.x, rest.y, rest.angle, rest.size, rest.colour
    phase = rng.uniform()
    sign = -1 if motion.endswith(("left", "up", "counterclockwise")) else 1
    match motion:
        case "move_left" | "move_right":
            x = x + sign * rng.uniform(*SPEED) * t
        case "move_up" | "move_down":
            y = y + sign * rng.uniform(*SPEED) * t
        case "rotate_clockwise" | "rotate_counterclockwise":
            angle = angle + sign * 2 * np.pi * rng.uniform(*TURN_RATE) * t
        case "grow" | "shrink":
            tooth = (phase + t / rng.uniform(*GROWTH_SECONDS)) % 1
            size = SIZES[0] * (SIZES[1] / SIZES[0]) ** (tooth if motion == "grow" else 1 - tooth)
        case "bounce":
            flight = (phase + t / rng.uniform(*BOUNCE_SECONDS)) % 1
            y = y - rng.uniform(*BOUNCE_HEIGHT) * 4 * flight * (1 - flight)
        case "blink":
            colour = item.colours[((phase + t / rng.uniform(*BLINK_SECONDS)) % 1 < 0.5).astype(np.intp)]
        case "circle_clockwise" | "circle_counterclockwise":
            turn = 2 * np.pi * (phase + sign * t / rng.uniform(*CIRCLE_SECONDS))
            radius = rng.uniform(*CIRCLE_RADIUS)
            x, y = x + radius * np.cos(turn), y + radius * np.sin(turn)
        case "swing":
            swing = np.sin(2 * np.pi * (phase + t / rng.uniform(*SWING_SECONDS)))
            angle = angle + rng.uniform(*SWING_ANGLE) * swing
        case _:
            raise KeyError(motion)
    return States(x, y, angle, size, colour)


def render(
    scene: Scene,
    states: States,
    height: int,
    width: int,
    rng: np.random.Generator,
    also: Iterable[tuple[str, States]] = (),
) -> Frames:
    """Draw the scene at F moments: uint8 [F, height, width, 3] RGB.

    The frame shows the middle of the world, ``width / height`` frame heights of it. ``also``: shapes of
    further objects that move, which the scene does not have, and their states at the same moments.
    """
    world_pixels = max(width, round(scene.world_width * height))
    still = _background(scene, height, world_pixels)[None]
    for other in scene.others:
        _draw(still, scene, other.shape, other.at_rest())
    world = np.repeat(still, len(states.x), axis=0)
    for shape, moving in [*also, (scene.item.shape, states)]:
        _draw(world, scene, shape, moving)
    left = (world_pixels - width) // 2
    video = world[:, :, left : left + width]
    video += rng.standard_normal(video.shape[:3], dtype=np.float32)[..., None] * np.float32(255 * scene.noise)
    return np.clip(video, 0, 255, out=video).astype(np.uint8)


def _background(scene: Scene, height: int, width: int) -> NDArray[np.float32]:
    """Return mean colour and smooth texture of the world, [H, W, 3] in [0, 255]."""
    cycles_x, cycles_y, phase = scene.waves[:, :3].T
    across = 2 * np.pi * cycles_x * (np.arange(width) + 0.5)[:, None] / width + phase
    down = 2 * np.pi * cycles_y * (np.arange(height) + 0.5)[:, None] / height
    # cos(a + b) = cos a cos b - sin a sin b: a matrix product in place of a cosine for every pixel.
    columns = np.concatenate([np.cos(across), -np.sin(across)], axis=1)[..., None]
    columns = (columns * np.tile(scene.waves[:, 3:], (2, 1))).transpose(1, 0, 2).reshape(-1, width * 3)
    texture: Floats = np.concatenate([np.cos(down), np.sin(down)], axis=1) @ columns
    return (255 * (scene.background + texture.reshape(height, width, 3))).astype(np.float32)


def _draw(world: NDArray[np.float32], scene: Scene, shape: str, states: States) -> None:
    """Paint an object in place into the world [F, H, W, 3] at F moments."""
    count, height, width, _ = world.shape
    reach = int(np.ceil((SHAPE_REACH * states.size.max() + scene.softness) * height)) + 1
    window = min(2 * reach + 1, height, width)
    # Pixels around the object's centre, and their offsets from it; they wrap around when used as indices.
    rows = np.floor(states.y[:, None] * height).astype(np.intp) - window // 2 + np.arange(window)
    columns = np.floor(states.x[:, None] * height).astype(np.intp) - window // 2 + np.arange(window)
    dy, dx = (rows + 0.5) / height - states.y[:, None], (columns + 0.5) / height - states.x[:, None]
    alpha = np.clip(0.5 - _distance(shape, states, dx, dy) / np.float32(scene.softness), 0, 1)[..., None]
    at = np.arange(count)[:, None, None], (rows % height)[:, :, None], (columns % width)[:, None, :]
    colour = (states.colour * 255).astype(np.float32)[:, None, None, :]
    under = world[at]
    world[at] = under + alpha * (colour - under)


def _distance(shape: str, states: States, dx: Floats, dy: Floats) -> NDArray[np.float32]:
    """Return signed distances [F, Y, X] to the object, negative inside, at offsets [F, X] and [F, Y]."""
    cos, sin = np.cos(states.angle)[:, None], np.sin(states.angle)[:, None]
    pieces = []
    for piece in SHAPES[shape]:
        inside: NDArray[np.float32] | None = None
        for nx, ny, d in piece:
            # A half plane's distance, its normal turned with the object: one part along x, one along y.
            along_x = ((nx * cos - ny * sin) * dx - d * states.size[:, None]).astype(np.float32)
            along_y = ((nx * sin + ny * cos) * dy).astype(np.float32)
            plane = along_x[:, None, :] + along_y[:, :, None]
            inside = plane if inside is None else np.maximum(inside, plane, out=inside)
        assert inside is not None
        pieces.append(inside)
    distance: NDArray[np.float32] = np.minimum.reduce(pieces)
    return distance
