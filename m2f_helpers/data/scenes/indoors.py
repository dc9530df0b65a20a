"""Rooms of `scenes`: `draw_room` paints one on a stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m2f_helpers.data.scenes.stage import Stage, disc


@dataclass(frozen=True)
class _Room:
    """The walls of a room in metres: X from `left` to `right`, back wall at Z = `back`, `top` above the floor."""

    left: float
    right: float
    back: float
    top: float


def draw_room(stage: Stage) -> None:
    """Walls, window, door and pictures, then the furniture of a bedroom or a living room."""
    rng = stage.rng
    room = _Room(-rng.uniform(2.0, 2.7), rng.uniform(2.0, 2.7), rng.uniform(4.6, 5.8), rng.uniform(2.6, 2.9))
    _draw_shell(stage, room)
    window_x = _back_wall(stage, room)
    if rng.random() < 0.85:
        _rug(stage, room)
    if rng.random() < 0.45:
        _bedroom(stage, room, window_x)
    else:
        _living_room(stage, room, window_x)


def _draw_shell(stage: Stage, room: _Room) -> None:
    across, along = (room.left, room.right), (min(stage.near, 1.2) * 0.5, room.back)
    color, high = stage.pick("wall"), (0, room.top)
    stage.fill("floor", stage.quad_y(across, 0, along), stage.pick("floor"))
    stage.fill("ceiling", stage.quad_y(across, room.top, along), stage.pick("ceiling"), 0.97)
    bright, dim = (0.98, 0.84) if stage.sun_left else (0.84, 0.98)
    stage.fill("wall", stage.quad_x(room.left, high, along), color, dim)
    stage.fill("wall", stage.quad_x(room.right, high, along), color, bright)
    stage.fill("wall", stage.quad_z(across, high, room.back), color, 0.92)
    skirting = color * 0.35 + 150
    for x in across:
        stage.paint(stage.quad_x(x, (0, 0.1), along), skirting, 0.9)
    stage.paint(stage.quad_z(across, (0, 0.1), room.back), skirting, 0.95)
    for y, value in ((0.0, 100), (room.top, 108)):
        stage.shadow(stage.quad_y(across, y, (room.back - 0.25, room.back)), value)
        stage.shadow(stage.quad_y((room.left, room.left + 0.22), y, along), value)
        stage.shadow(stage.quad_y((room.right - 0.22, room.right), y, along), value)


def _back_wall(stage: Stage, room: _Room) -> float:
    """Window with curtains, painting on the back wall; door and more on the side walls. Returns the window's X."""
    rng = stage.rng
    x = rng.choice([-0.9, 0.9]) + rng.uniform(-0.15, 0.15)
    half, y0, y1 = rng.uniform(0.6, 0.75), rng.uniform(0.85, 1.0), rng.uniform(2.1, 2.3)
    _roomwindow(stage, stage.quad_z((x - half, x + half), (y0, y1), room.back))
    if rng.random() < 0.85:
        _curtains(stage, x, half, y0, y1, room.back)
    if rng.random() < 0.85:
        u = -x + rng.uniform(-0.1, 0.1)
        width, height = rng.uniform(0.42, 0.6), rng.uniform(0.3, 0.42)
        _painting(stage, stage.quad_z((u - width, u + width), (1.72 - height, 1.72 + height), room.back))
    side, wall = (-1, room.left) if rng.random() < 0.5 else (1, room.right)
    z = rng.uniform(2.6, 3.4)
    if rng.random() < 0.75:
        _side_door(stage, wall, z, side)
    if rng.random() < 0.5:
        other = room.right if side < 0 else room.left
        _painting(stage, stage.quad_x(other, (1.25, 2.0), (z - 0.3, z + 0.9)))
    return x


def _roomwindow(stage: Stage, quad: np.ndarray) -> None:
    glass = stage.pick("windowpane")
    stage.fill("windowpane", quad, (244, 242, 236))
    center = quad.mean(0)
    pane = center + (quad - center) * 0.88
    stage.paint(pane, glass * 0.45 if stage.dusk else glass, 1.0 if stage.dusk else 1.12)
    (x0, y0), (x1, y1) = pane.min(0), pane.max(0)
    hill = np.stack([[x0, x0, (x0 + x1) / 2, x1, x1], y1 - np.array([0, 0.25, 0.38, 0.2, 0]) * (y1 - y0)], 1)
    stage.paint(hill, (60, 70, 96) if stage.dusk else (120, 172, 140))
    for a, b, c, d in ((0, 1, 3, 2), (0, 3, 1, 2)):
        bar = _bar(pane[a] * 0.5 + pane[b] * 0.5, pane[c] * 0.5 + pane[d] * 0.5, (x1 - x0) * 0.025)
        stage.paint(bar, (240, 238, 232))
    if not stage.dusk:
        stage.glows.append((*center, np.ptp(quad[:, 0]) * 0.9, 0.5))


def _bar(start: np.ndarray, end: np.ndarray, half_width: float) -> np.ndarray:
    direction = (end - start) / max(float(np.hypot(*(end - start))), 1e-6)
    normal = np.array((-direction[1], direction[0])) * half_width
    return np.array([start - normal, start + normal, end + normal, end - normal])


def _curtains(stage: Stage, x: float, half: float, y0: float, y1: float, z: float) -> None:
    color = stage.pick("curtain")
    low = 0.08 if stage.rng.random() < 0.6 else y0 - 0.2
    width = stage.rng.uniform(0.42, 0.55)
    for side in (-1, 1):
        edges = sorted((x + side * (half - 0.12), x + side * (half - 0.12 + width)))
        stage.fill("curtain", stage.quad_z(edges, (low, y1 + 0.16), z - 0.02), color)
        folds = np.linspace(edges[0], edges[1], 6)[:-1]
        stage.paint_many([stage.quad_z((f, f + 0.035), (low, y1 + 0.16), z - 0.02) for f in folds], color, 0.7)
        stage.paint_many([stage.quad_z((f + 0.05, f + 0.075), (low, y1 + 0.16), z - 0.02) for f in folds], color, 1.2)
    stage.paint(stage.quad_z((x - half - width, x + half + width), (y1 + 0.14, y1 + 0.19), z - 0.02), (90, 70, 50))


def _painting(stage: Stage, quad: np.ndarray) -> None:
    rng = stage.rng
    center = quad.mean(0)
    stage.shadow(quad + (3, 4), 96)
    stage.fill("painting", quad, (176, 132, 44))
    canvas = center + (quad - center) * 0.86
    hue = rng.choice([0, 1, 2])
    ground = [(40, 96, 150), (30, 120, 120), (190, 80, 50)][hue]
    stage.paint(canvas, ground)

    def at(u: float, v: float) -> np.ndarray:
        return (canvas[0] * (1 - u) + canvas[1] * u) * (1 - v) + (canvas[3] * (1 - u) + canvas[2] * u) * v

    stage.paint(np.array([at(0, 0), at(1, 0), at(1, 0.3), at(0.6, 0.42), at(0.25, 0.3), at(0, 0.38)]), (200, 190, 90))
    spot = at(rng.uniform(0.25, 0.75), 0.7)
    stage.paint(disc(*spot, np.ptp(canvas[:, 0]) * 0.09), (250, 226, 140))
    stage.paint(np.array([at(0.15, 0.05), at(0.45, 0.05), at(0.3, 0.62)]), (130, 40, 60))


def _side_door(stage: Stage, x: float, z: float, side: int) -> None:
    color = stage.pick("door")
    outer = stage.quad_x(x - side * 0.01, (0, 2.12), (z - 0.08, z + 1.08))
    stage.fill("door", outer, (236, 230, 220), 0.9)
    stage.paint(stage.quad_x(x - side * 0.01, (0, 2.04), (z, z + 1.0)), color)
    panels = [stage.quad_x(x - side * 0.01, (a, b), (z + 0.18, z + 0.82)) for a, b in ((0.2, 0.9), (1.1, 1.85))]
    stage.paint_many(panels, color, 0.72)
    ((kx, ky),) = stage.project([(x - side * 0.05, 1.0, z + 0.12)])
    stage.paint(disc(kx, ky, stage.width / 160), (240, 206, 110))


def _rug(stage: Stage, room: _Room) -> None:
    rng = stage.rng
    color = stage.pick("rug")
    half, z0, z1 = rng.uniform(1.0, 1.4), rng.uniform(1.9, 2.2), rng.uniform(3.6, 4.1)
    stage.fill("rug", stage.quad_y((-half, half), 0.01, (z0, z1)), color)
    edge = 0.12
    for inset, gain in ((edge, 1.9), (2 * edge, 1.0), (4 * edge, 1.5), (5 * edge, 0.9)):
        stage.paint(stage.quad_y((-half + inset, half - inset), 0.01, (z0 + inset, z1 - inset)), color, gain)


def _bedroom(stage: Stage, room: _Room, window_x: float) -> None:
    rng = stage.rng
    left = window_x > 0
    x0 = room.left + 0.35 if left else room.right - 0.35 - 1.7
    items = [(room.back - 1.0, _bed, (x0, x0 + 1.7, room.back))]
    if rng.random() < 0.5:
        table_z = rng.uniform(3.4, 3.8)
        items.append((table_z, _table, ((0.95 if left else -0.95) + rng.uniform(-0.1, 0.1), table_z)))
    corner = room.right if left else room.left
    if rng.random() < 0.8:
        edges = sorted((corner, corner + (-0.6 if left else 0.6)))
        z = rng.uniform(2.7, 3.3)
        items.append((z + 0.3, _cabinet, (edges, rng.uniform(1.0, 1.9), (z, z + 1.2))))
    if rng.random() < 0.7:
        items.append((room.back - 0.3, _floor_lamp, (x0 + (2.05 if left else -0.35), room.back - 0.3)))
    if rng.random() < 0.6:
        items.append((2.4, _chair, ((0.55 if left else -0.55) + rng.uniform(-0.2, 0.3), 2.5)))
    _maybe_other(stage, items)
    stage.draw(items)


def _living_room(stage: Stage, room: _Room, window_x: float) -> None:
    rng = stage.rng
    x = -np.sign(window_x) * rng.uniform(0.5, 0.8)
    items = [(room.back - 0.6, _sofa, (x - 1.05, x + 1.05, room.back - 0.15))]
    if rng.random() < 0.85:
        table_x, table_z = rng.uniform(-0.5, 0.5), rng.uniform(2.5, 3.0)
        items.append((table_z, _table, (table_x, table_z)))
        if rng.random() < 0.75:
            side = 1 if table_x < 0 else -1
            items.append((table_z - 0.1, _chair, (table_x + side * 1.15, table_z)))
    if rng.random() < 0.7:
        edge = room.right if x < 0 else room.left
        edges = sorted((edge, edge + (-0.5 if x < 0 else 0.5)))
        z = rng.uniform(2.9, 3.4)
        items.append((z + 0.3, _cabinet, (edges, rng.uniform(0.9, 2.0), (z, z + 1.2))))
    if rng.random() < 0.8:
        items.append((room.back - 0.4, _floor_lamp, (x + np.sign(window_x) * 1.4, room.back - 0.4)))
    _maybe_other(stage, items)
    stage.draw(items)


def _maybe_other(stage: Stage, items: list) -> None:
    if stage.rng.random() < 0.4:
        z = stage.rng.uniform(2.0, 2.4)
        items.append((z, _box, (stage.rng.uniform(-1.3, 1.3), z)))


def _box(stage: Stage, x: float, z: float) -> None:
    """A toy box, a thing without a class: "other"."""
    stage.ground_shadow(x, z + 0.15, 0.32)
    stage.cuboid("other", (x - 0.2, x + 0.2), (0, 0.28), (z, z + 0.35), stage.pick("other"))


def _bed(stage: Stage, x0: float, x1: float, back: float) -> None:
    color, front = stage.pick("bed"), back - 2.1
    stage.shadow(stage.quad_y((x0 - 0.25, x1 + 0.25), 0, (front - 0.3, back)), 66)
    stage.cuboid("bed", (x0, x1), (0.3, 1.15), (back - 0.1, back), (120, 84, 60))
    stage.cuboid("bed", (x0, x1), (0.05, 0.32), (front, back - 0.1), (120, 84, 60))
    stage.cuboid("bed", (x0 + 0.02, x1 - 0.02), (0.3, 0.62), (front + 0.04, back - 0.1), color)
    stage.paint(stage.quad_y((x0 + 0.02, x1 - 0.02), 0.62, (back - 0.75, back - 0.1)), (240, 238, 232), 0.98)
    stripes = [stage.quad_y((x0 + 0.02, x1 - 0.02), 0.62, (front + d, front + d + 0.12)) for d in (0.25, 0.65, 1.05)]
    stage.paint_many(stripes, color, 1.4)
    for k in (0.08, 0.9):
        pillow = (x0 + k, x0 + k + 0.7)
        stage.cuboid("cushion", pillow, (0.62, 0.98), (back - 0.42, back - 0.2), stage.pick("cushion"))


def _sofa(stage: Stage, x0: float, x1: float, back: float) -> None:
    color, front = stage.pick("sofa"), back - 0.95
    stage.shadow(stage.quad_y((x0 - 0.2, x1 + 0.2), 0, (front - 0.3, back)), 66)
    stage.cuboid("sofa", (x0, x1), (0.1, 0.92), (back - 0.25, back), color)
    stage.cuboid("sofa", (x0, x1), (0.08, 0.45), (front, back - 0.25), color)
    middle = (x0 + x1) / 2
    stage.paint(stage.quad_z((middle - 0.01, middle + 0.01), (0.1, 0.45), front), color, 0.6)
    colors = [stage.pick("cushion") for _ in range(2)]
    for k, edge in enumerate((x0 + 0.3, x1 - 0.82)):
        if k == 0 or stage.rng.random() < 0.7:
            stage.cuboid("cushion", (edge, edge + 0.52), (0.46, 0.86), (back - 0.45, back - 0.3), colors[k])
    for arm in (x0, x1 - 0.22):
        stage.cuboid("sofa", (arm, arm + 0.22), (0.08, 0.64), (front - 0.02, back), color * 0.92)


def _cabinet(stage: Stage, x: Sequence[float], height: float, z: Sequence[float]) -> None:
    color = stage.pick("cabinet")
    stage.shadow(stage.quad_y((x[0] - 0.15, x[1] + 0.15), 0, (z[0] - 0.2, z[1])), 70)
    stage.cuboid("cabinet", x, (0, height), z, color)
    inner = x[0] if x[0] > 0 else x[1]
    gaps = np.linspace(0.06, height - 0.04, 4 if height > 1.3 else 3)
    for low, high in zip(gaps[:-1], gaps[1:], strict=True):
        for a, b in ((z[0] + 0.06, (z[0] + z[1]) / 2 - 0.03), ((z[0] + z[1]) / 2 + 0.03, z[1] - 0.06)):
            stage.paint(stage.quad_x(inner, (low + 0.03, high - 0.03), (a, b)), color, 1.05)
        ((kx, ky),) = stage.project([(inner, (low + high) / 2, (z[0] + z[1]) / 2 - 0.1)])
        stage.paint(disc(kx, ky, stage.width / 220), (220, 190, 120))


def _table(stage: Stage, x: float, z: float) -> None:
    color = stage.pick("table")
    half, height, depth = stage.rng.uniform(0.6, 0.75), stage.rng.uniform(0.48, 0.62), 0.7
    stage.ground_shadow(x, z + depth / 2, half * 1.15, 0.5, 64)
    for leg_z in (z + depth - 0.14, z):
        for leg_x in (x - half + 0.02, x + half - 0.14):
            stage.cuboid("table", (leg_x, leg_x + 0.12), (0, height), (leg_z, leg_z + 0.12), color * 0.75)
    stage.cuboid("table", (x - half, x + half), (height - 0.1, height), (z - 0.05, z + depth), color)
    if stage.rng.random() < 0.6:
        vase = stage.rng.uniform(-0.3, 0.2)
        place = (x + vase, x + vase + 0.15), (height, height + 0.3), (z + 0.3, z + 0.45)
        stage.cuboid("other", *place, stage.pick("other"))


def _chair(stage: Stage, x: float, z: float) -> None:
    color = stage.pick("chair")
    stage.ground_shadow(x, z + 0.22, 0.36)
    stage.cuboid("chair", (x - 0.25, x + 0.25), (0.4, 1.0), (z + 0.44, z + 0.5), color)
    stage.paint(stage.quad_z((x - 0.16, x + 0.16), (0.6, 0.92), z + 0.44), color, 0.78)
    for leg_z in (z + 0.42, z):
        for leg_x in (x - 0.25, x + 0.16):
            stage.cuboid("chair", (leg_x, leg_x + 0.09), (0, 0.45), (leg_z, leg_z + 0.08), color * 0.8)
    stage.cuboid("chair", (x - 0.27, x + 0.27), (0.38, 0.48), (z - 0.02, z + 0.5), color)


def _floor_lamp(stage: Stage, x: float, z: float) -> None:
    color = stage.pick("lamp")
    width = stage.at_least(13, z)
    stage.ground_shadow(x, z, 0.25)
    stage.fill("lamp", stage.quad_z((x - 0.16, x + 0.16), (0, 0.07), z), (120, 96, 60))
    stage.fill("lamp", stage.quad_z((x - width / 2, x + width / 2), (0, 1.4), z), (150, 120, 70))
    shade = stage.project([(x - 0.36, 1.24, z), (x + 0.36, 1.24, z), (x + 0.22, 1.86, z), (x - 0.22, 1.86, z)])
    stage.fill("lamp", shade, color, 1.6 if stage.dusk else 1.0)
    stage.glows.append((*shade.mean(0), stage.focal * (1.1 if stage.dusk else 0.5) / z, 0.9 if stage.dusk else 0.25))
    if stage.dusk:
        stage.glows.append((*shade.mean(0), stage.focal * 0.3 / z, 1.2))
