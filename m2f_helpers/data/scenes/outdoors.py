"""Streets and house fronts of `scenes`: `draw_outdoors` paints one on a stage."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from m2f_helpers.data.scenes.stage import ON_DISK, Stage, disc, textures


def draw_outdoors(stage: Stage) -> None:
    """Sky, mountains and grass, then a street seen along its length or a house behind a road."""
    _draw_sky(stage)
    _draw_mountains(stage)
    _draw_lawn(stage)
    if stage.rng.random() < 0.55:
        _draw_street(stage)
    else:
        _draw_house_front(stage)


def _draw_sky(stage: Stage) -> None:
    rows = int(stage.horizon) + 2
    top, bottom = ((44, 62, 140), (250, 160, 96)) if stage.dusk else ((74, 138, 222), (206, 226, 244))
    t = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None] ** (1.8 if stage.dusk else 1.0)
    gradient = np.float32(top) * (1 - t) + np.float32(bottom) * t
    cloud_x, cloud_y = (int(v) for v in stage.rng.integers(0, 500, 2))
    clouds = cv2.resize(textures()["cloud"][cloud_y : cloud_y + 160, cloud_x : cloud_x + 220], (stage.width, rows))
    color = np.float32((150, 96, 112) if stage.dusk else (252, 252, 254))
    strength = np.float32(stage.rng.uniform(0.3, 1.0) * (0.6 if stage.dusk else 0.9) / 255)
    amount = clouds[..., None] * strength
    stage.image[:rows] = (gradient + (color - gradient) * amount).astype(np.uint8)
    stage.label[:rows] = ON_DISK["sky"]


def _draw_mountains(stage: Stage) -> None:
    rng = stage.rng
    if rng.random() < 0.15:
        return
    for layer, (low, high) in enumerate([(0.16, 0.30), (0.08, 0.18)]):
        corners = 9
        x = np.linspace(-0.05, 1.05, corners) * stage.width
        y = stage.horizon - stage.height * rng.uniform(low, high, corners) * np.where(np.arange(corners) % 2, 1, 0.55)
        ridge = np.stack([x, y], 1)
        foot = [(x[-1], stage.horizon + 3), (x[0], stage.horizon + 3)]
        color = stage.pick("mountain") * (1.0 if layer == 0 else 0.8)
        stage.fill("mountain", np.vstack([ridge, foot]), color, depth=stage.haze_range * (0.3 if layer == 0 else 0.15))
        for k in range(1, corners - 1, 2) if layer == 0 else ():
            flank = [ridge[k], ridge[k + (-1 if stage.sun_left else 1)], (ridge[k][0], stage.horizon)]
            stage.paint(np.array(flank), color, 1.16, stage.haze_range * 0.3)


def _draw_lawn(stage: Stage) -> None:
    rows = np.array([(0, stage.horizon), (stage.width, stage.horizon), (stage.width, stage.height), (0, stage.height)])
    stage.fill("grass", rows, stage.pick("grass"))


def _haze_ground(stage: Stage) -> None:
    """Let the ground fade with distance; call it before anything stands on it."""
    first = int(stage.horizon) + 1
    below = np.arange(first, stage.height) - stage.horizon + 1
    clear = np.exp(-stage.focal * stage.eye / below / stage.haze_range)[:, None, None]
    ground = stage.image[first:]
    weight = np.broadcast_to((clear * 256).astype(np.uint16), ground.shape)
    veil = ((1 - clear) * np.array(stage.haze_color) * 256).astype(np.uint16)
    ground[:] = ((ground * weight + veil) >> 8).astype(np.uint8)


def _draw_street(stage: Stage) -> None:
    rng = stage.rng
    middle, half, walk = rng.uniform(-1.6, 1.6), rng.uniform(2.8, 3.8), rng.uniform(1.8, 2.6)
    span = (stage.near, 160.0)
    stage.fill("road", stage.quad_y((middle - half, middle + half), 0, span), stage.pick("road"))
    for start in np.arange(np.ceil(stage.near), 40, 4.0):
        stage.paint(stage.quad_y((middle - 0.1, middle + 0.1), 0, (start, start + 2)), (226, 222, 206))
    color = stage.pick("sidewalk")
    for side in (-1, 1):
        edges = sorted((middle + side * half, middle + side * (half + walk)))
        stage.fill("sidewalk", stage.quad_y(edges, 0, span), color)
        kerb = sorted((middle + side * half, middle + side * (half + 0.18)))
        stage.paint(stage.quad_y(kerb, 0, span), color, 1.2)
    _haze_ground(stage)
    items = []
    green_left, green_right = rng.random(2) < 0.4
    for side, green in ((-1, green_left), (1, green_right)):
        border = middle + side * (half + walk)
        items += _green_side(stage, side, border) if green else _town_side(stage, side, border)
        items += _street_furniture(stage, side, middle + side * half, walk)
        if rng.random() < 0.75:
            z = rng.uniform(6.0, 12)
            items.append((z, _car_away, (middle + side * (half - 1.1), z)))
    stage.draw(items)


def _town_side(stage: Stage, side: int, border: float) -> list:
    rng = stage.rng
    items, z = [], rng.uniform(5, 7)
    while z < 46:
        length, height = rng.uniform(7, 12), rng.uniform(5.0, 11)
        items.append((z + length * 0.5 + 3, _facade_along, (side, border, z, z + length, height)))
        z += length + (rng.uniform(2, 5) if rng.random() < 0.3 else 0)
    return items


def _green_side(stage: Stage, side: int, border: float) -> list:
    rng = stage.rng
    items = []
    if rng.random() < 0.7:
        items.append((14.0, _fence_along, (border + side * 0.3, stage.near, 26.0)))
    for z in np.arange(rng.uniform(8, 11), 34, 6.5):
        items.append((z + 6, _tree, (border + side * rng.uniform(2.6, 5), z, rng.uniform(4.5, 7))))
    return items


def _street_furniture(stage: Stage, side: int, kerb: float, walk: float) -> list:
    rng = stage.rng
    items = []
    near = rng.uniform(5.5, 8)
    kind = rng.random()
    if kind < 0.5:
        items.append((near, _streetlight, (kerb + side * 0.35, near, -side)))
    elif kind < 0.9:
        items.append((near, _pole, (kerb + side * 0.35, near)))
    if rng.random() < 0.7:
        z = rng.uniform(4.4, 6.5)
        items.append((z, _person, (kerb + side * rng.uniform(0.8, walk - 0.3), z)))
    if rng.random() < 0.3:
        z = rng.uniform(7, 11)
        items.append((z, _bin, (kerb + side * (walk - 0.5), z)))
    return items


def _facade_along(stage: Stage, side: int, x: float, z0: float, z1: float, height: float) -> None:
    color, glass, frame = stage.pick("building"), stage.pick("windowpane"), stage.pick("door")
    lit = stage.rng.random(64)
    sunny = (side < 0) != stage.sun_left
    far_x = x + side * 9
    stage.face("building", [(x, 0, z0), (far_x, 0, z0), (far_x, height, z0), (x, height, z0)], color, 0.8)
    stage.face("building", [(x, 0, z0), (x, 0, z1), (x, height, z1), (x, height, z0)], color, 1.1 if sunny else 0.86)
    depth = (z0 + z1) / 2
    stage.paint(stage.quad_x(x, (height - 0.45, height), (z0, z1)), stage.pick("roof"), 0.9, depth)
    stage.paint(stage.quad_x(x, (0, 0.5), (z0, z1)), color, 0.7, depth)
    door_at = int(stage.rng.integers(0, 3))
    for k, z in enumerate(np.arange(z0 + 0.7, z1 - 1.9, 2.6)):
        if k == door_at and z < 20:
            stage.fill("door", stage.quad_x(x, (0, 2.4), (z, z + 1.5)), frame, 1.0, z)
            stage.paint(stage.quad_x(x, (1.7, 2.2), (z + 0.4, z + 1.1)), frame, 1.5, z)
        for floor, y in enumerate(np.arange(0.9 if k != door_at else 3.4, height - 1.9, 2.5)):
            quad = stage.quad_x(x, (y, y + 1.6), (z, z + 1.6))
            if np.ptp(quad[:, 0]) > stage.width / 60:
                _window(stage, quad, glass, z, lit[(7 * k + floor) % 64])


def _window(stage: Stage, quad: np.ndarray, glass: np.ndarray, depth: float, lit: float) -> None:
    """A pane with a bright frame, a reflection and a crossbar; at dusk some of them are lit."""
    center = quad.mean(0)
    glowing = stage.dusk and not stage.indoor and lit < 0.45
    color = np.array((255, 206, 120)) if glowing else glass
    stage.fill("windowpane", quad, (236, 232, 224), 1.0, depth)
    pane = center + (quad - center) * 0.84
    stage.paint(pane, color, 1.6 if glowing else 1.0, 0 if glowing else depth)
    if glowing:
        stage.glows.append((*center, np.ptp(quad[:, 1]) * 0.55, 0.9))
    else:
        stage.paint(np.array([pane[0], pane[3], pane[2] * 0.6 + pane[3] * 0.4]), color, 1.18, depth)
    middle = [(pane[0] + pane[1]) / 2, (pane[3] + pane[2]) / 2]
    thick = max(1, round(np.ptp(pane[:, 0]) * 0.06))
    ends = [tuple(int(v) for v in np.clip(p, -8000, 8000)) for p in middle]
    cv2.line(stage.image, ends[0], ends[1], stage.tint((226, 222, 214), 1.0, depth), thick, cv2.LINE_AA)


def _tree(stage: Stage, x: float, z: float, height: float) -> None:
    rng = stage.rng
    color, width = stage.pick("tree"), max(0.32, stage.at_least(9, z))
    stage.ground_shadow(x + (1 if stage.sun_left else -1) * 0.8, z, height * 0.33)
    stage.fill("tree", stage.quad_z((x - width / 2, x + width / 2), (0, height * 0.55), z), (104, 72, 48), 0.9, z)
    ((cx, cy),) = stage.project([(x, height * 0.68, z)])
    radius = stage.focal * height * 0.2 / z
    blobs = [(0, 0, 1.25)] + [(1.05 * np.cos(a), 0.85 * np.sin(a), rng.uniform(0.7, 0.95)) for a in np.arange(7) * 0.9]
    for dx, dy, r in blobs:
        blob = _wobbly(rng, cx + dx * radius, cy + dy * radius, r * radius)
        stage.fill("tree", blob, color, rng.uniform(0.84, 1.0), z)
    lit = -1 if stage.sun_left else 1
    for _ in range(5):
        dx, dy = lit * rng.uniform(0, 1.2), rng.uniform(-1.3, 0.3)
        stage.paint(_wobbly(rng, cx + dx * radius, cy + dy * radius, 0.32 * radius), color, rng.uniform(1.15, 1.4), z)
    stage.shadow(disc(cx - lit * 0.7 * radius, cy + 0.8 * radius, radius * 0.9), 92)


def _wobbly(rng: np.random.Generator, x: float, y: float, radius: float) -> np.ndarray:
    outline = disc(0, 0, radius, corners=14) * rng.uniform(0.86, 1.14, (14, 1))
    return outline + (x, y)


def _fence_along(stage: Stage, x: float, z0: float, z1: float) -> None:
    color = stage.pick("fence")
    stage.fill("fence", stage.quad_x(x, (0, 1.15), (z0, z1)), color, 1.0, 8)
    boards = [stage.quad_x(x, (0, 1.15), (z, z + 0.06)) for z in np.geomspace(max(z0, 2), z1 * 0.8, 26)]
    stage.paint_many(boards, color, 0.62, 8)
    stage.paint(stage.quad_x(x, (1.05, 1.15), (z0, z1)), color, 1.25, 8)


def _fence_across(stage: Stage, x0: float, x1: float, z: float) -> None:
    color = stage.pick("fence")
    stage.fill("fence", stage.quad_z((x0, x1), (0, 1.25), z), color, 1.0, z)
    boards = [stage.quad_z((x, x + 0.05), (0, 1.25), z) for x in np.arange(x0, x1, 0.42)]
    stage.paint_many(boards, color, 0.6, z)
    stage.paint(stage.quad_z((x0, x1), (1.12, 1.25), z), color, 1.25, z)


def _streetlight(stage: Stage, x: float, z: float, toward: int) -> None:
    color = stage.pick("streetlight")
    width = max(0.14, stage.at_least(16, z))
    top = stage.eye + (stage.horizon * stage.rng.uniform(0.62, 0.86)) * z / stage.focal
    stage.ground_shadow(x, z, 0.5)
    stage.fill("streetlight", stage.quad_z((x - width, x + width), (0, 0.5), z), color, 0.8, z)
    stage.fill("streetlight", stage.quad_z((x - width / 2, x + width / 2), (0, top), z), color, 1.0, z)
    stage.paint(stage.quad_z((x - width / 2, x - width / 6), (0.5, top), z), color, 1.5, z)
    arm = sorted((x - toward * width / 2, x + toward * 1.3))
    stage.fill("streetlight", stage.quad_z(arm, (top - width, top), z), color, 1.0, z)
    head = sorted((x + toward * 0.7, x + toward * 1.9))
    stage.fill("streetlight", stage.quad_z(head, (top - 0.5, top + 0.02), z), color, 1.0, z)
    bulb = stage.quad_z((head[0] + 0.1, head[1] - 0.1), (top - 0.5, top - 0.26), z)
    stage.paint(bulb, (255, 226, 150), 2.0 if stage.dusk else 0.95)
    stage.glows.append((*bulb.mean(0), stage.focal * 1.1 / z, 0.8))
    if stage.dusk:
        stage.glows.append((*bulb.mean(0), stage.focal * 0.42 / z, 1.6))


def _pole(stage: Stage, x: float, z: float) -> None:
    color = stage.pick("pole")
    width = max(0.15, stage.at_least(18, z))
    top = stage.eye + (stage.horizon * stage.rng.uniform(0.4, 0.75)) * z / stage.focal
    stage.ground_shadow(x, z, 0.4)
    stage.fill("pole", stage.quad_z((x - width / 2, x + width / 2), (0, top), z), color, 1.0, z)
    bands = [stage.quad_z((x - width / 2, x + width / 2), (y, y + 0.35), z) for y in np.arange(0.4, top - 0.3, 0.9)]
    stage.paint_many(bands, (226, 60, 44), 1, z)
    stage.paint(stage.quad_z((x + width / 6, x + width / 2), (0, top), z), color * (0.72, 0.62, 0.62), 1.0, z)


def _person(stage: Stage, x: float, z: float) -> None:
    rng = stage.rng
    shirt, trousers, skin = stage.pick("shirt"), stage.pick("trousers"), stage.pick("skin")
    tall, step = rng.uniform(1.65, 1.9), rng.uniform(0.08, 0.24)
    stage.ground_shadow(x, z, 0.5)
    for foot in (-step, step):
        leg = [(x + foot - 0.13, 0, z), (x + foot + 0.13, 0, z), (x + 0.22, 0.86, z), (x - 0.22, 0.86, z)]
        stage.face("person", leg, trousers)
    torso = [(x - 0.24, 0.78, z), (x + 0.24, 0.78, z), (x + 0.31, tall - 0.32, z), (x - 0.31, tall - 0.32, z)]
    stage.face("person", torso, shirt)
    for arm in (-1, 1):
        swing = arm * (0.34 + step * 0.5)
        limb = [(x + arm * 0.22, tall - 0.34, z), (x + arm * 0.36, tall - 0.4, z), (x + swing + 0.07, 0.78, z)]
        stage.face("person", [*limb, (x + swing - 0.07, 0.78, z)], shirt, 0.82)
    ((hx, hy),) = stage.project([(x, tall - 0.16, z)])
    size = stage.focal * 0.15 / z
    stage.fill("person", disc(hx, hy, size, size * 1.2), skin, 1.0, z)
    stage.paint(disc(hx, hy - size * 0.55, size * 1.05, size * 0.7), (52, 36, 28), 1.0, z)


def _car_away(stage: Stage, x: float, z: float) -> None:
    """A parked car seen from behind."""
    color = stage.pick("car")
    left, right, back, front = x - 0.9, x + 0.9, z, z + 4.0
    stage.ground_shadow(x, z + 2, 1.3, 2.3, 52)
    for wheel in (left + 0.05, right - 0.4):
        stage.cuboid("car", (wheel, wheel + 0.35), (0, 0.55), (back + 0.2, back + 0.8), (30, 30, 34))
    stage.cuboid("car", (left, right), (0.3, 0.95), (back, front), color)
    roof = (left + 0.18, right - 0.18)
    stage.cuboid("car", roof, (0.95, 1.5), (back + 0.5, front - 1.2), color)
    stage.paint(stage.quad_z((roof[0] + 0.12, roof[1] - 0.12), (1.0, 1.42), back + 0.5), (40, 52, 66), 1.0, z)
    for lamp in (left + 0.06, right - 0.34):
        stage.paint(stage.quad_z((lamp, lamp + 0.28), (0.64, 0.82), back), (226, 30, 30), 1.3 if stage.dusk else 0.8)
    stage.paint(stage.quad_z((x - 0.25, x + 0.25), (0.46, 0.6), back), (236, 236, 228), 1.0, z)
    stage.paint(stage.quad_z((left, right), (0.3, 0.4), back), (38, 38, 42), 1.0, z)


def _car_across(stage: Stage, x: float, z: float) -> None:
    """A car seen from the side."""
    color = stage.pick("car")
    facing = 1 if stage.rng.random() < 0.5 else -1

    def outline(points: Sequence[tuple[float, float]]) -> np.ndarray:
        return stage.project([(x + facing * px, py, z) for px, py in points])

    stage.ground_shadow(x, z + 0.3, 2.3, 0.9, 52)
    body = [(-2.1, 0.3), (2.1, 0.3), (2.1, 0.75), (1.3, 0.92), (0.7, 1.45), (-1.0, 1.5), (-1.7, 0.95), (-2.1, 0.85)]
    stage.fill("car", outline(body), color, 1.0, z)
    stage.paint(outline([(-2.1, 0.3), (2.1, 0.3), (2.1, 0.5), (-2.1, 0.5)]), color, 0.66, z)
    stage.paint(outline([(-0.2, 0.95), (1.05, 0.95), (0.6, 1.36), (-0.2, 1.4)]), (52, 66, 84), 1.0, z)
    stage.paint(outline([(-1.4, 0.95), (-0.32, 0.95), (-0.32, 1.4), (-0.95, 1.4)]), (52, 66, 84), 1.0, z)
    for wheel in (-1.3, 1.3):
        ((cx, cy),) = stage.project([(x + wheel, 0.34, z)])
        radius = stage.focal * 0.36 / z
        stage.fill("car", disc(cx, cy, radius), (28, 28, 32), 1.0, z)
        stage.paint(disc(cx, cy, radius * 0.5), (170, 172, 178), 1.0, z)
    stage.paint(outline([(1.95, 0.66), (2.1, 0.62), (2.1, 0.76), (1.95, 0.8)]), (255, 236, 180), 1.2)


def _bin(stage: Stage, x: float, z: float) -> None:
    """A thing without a class: "other"."""
    stage.ground_shadow(x, z, 0.5)
    stage.cuboid("other", (x - 0.3, x + 0.3), (0, 0.95), (z, z + 0.5), stage.pick("other"))


def _draw_house_front(stage: Stage) -> None:
    rng = stage.rng
    road = (stage.near, stage.near + rng.uniform(2.4, 3.4))
    walk = (road[1], road[1] + rng.uniform(1.5, 2.2))
    stage.fill("road", stage.quad_y((-40, 40), 0, road), stage.pick("road"))
    middle = road[0] * 0.45 + road[1] * 0.55
    dashes = [stage.quad_y((x, x + 1.1), 0, (middle - 0.07, middle + 0.07)) for x in np.arange(-8, 8, 2.2)]
    stage.paint_many(dashes, (226, 222, 206))
    color = stage.pick("sidewalk")
    stage.fill("sidewalk", stage.quad_y((-40, 40), 0, walk), color)
    stage.paint(stage.quad_y((-40, 40), 0, (walk[0], walk[0] + 0.15)), color, 1.2)
    z = walk[1] + rng.uniform(4.5, 7.5)
    half_view = z * stage.width / stage.focal / 2
    x = rng.uniform(-0.35, 0.35) * half_view
    half = rng.uniform(3.8, 5.2)
    stage.fill("sidewalk", stage.quad_y((x - 0.7, x + 0.7), 0, (walk[1] - 0.05, z)), color, 0.96)
    _haze_ground(stage)
    items = [(z + 2, _house, (x, half, z))]
    for side in (-1, 1):
        if rng.random() < 0.8:
            items.append((z + 3, _tree, (x + side * (half + rng.uniform(1.5, 3.5)), z + 2.5, rng.uniform(5, 7))))
        if rng.random() < 0.7:
            ends = sorted((x + side * 1.3, x + side * 16))
            items.append((walk[1] + 0.4, _fence_across, (*ends, walk[1] + 0.3)))
        items += _house_furniture(stage, side, road, walk)
    stage.draw(items)


def _house_furniture(stage: Stage, side: int, road: Sequence[float], walk: Sequence[float]) -> list:
    rng, items = stage.rng, []
    half_view = walk[0] * stage.width / stage.focal / 2
    kind = rng.random()
    if kind < 0.5:
        items.append((walk[0] + 0.3, _streetlight, (side * rng.uniform(0.45, 0.8) * half_view, walk[0] + 0.3, -side)))
    elif kind < 0.9:
        items.append((walk[0] + 0.3, _pole, (side * rng.uniform(0.35, 0.9) * half_view, walk[0] + 0.3)))
    if rng.random() < 0.65:
        z = walk[0] + 0.15
        items.append((z, _person, (side * rng.uniform(0.1, 0.8) * half_view, z)))
    if rng.random() < 0.4:
        z = (road[0] + road[1]) / 2 + 0.6
        items.append((z, _car_across, (side * rng.uniform(0.3, 0.9) * half_view, z)))
    if rng.random() < 0.25:
        items.append((walk[1] - 0.3, _bin, (side * rng.uniform(0.3, 0.9) * half_view, walk[1] - 0.3)))
    return items


def _house(stage: Stage, x: float, half: float, z: float) -> None:
    rng = stage.rng
    color, glass, roof, frame = (stage.pick(name) for name in ("building", "windowpane", "roof", "door"))
    storeys = int(rng.integers(1, 3))
    height = 3.1 * storeys
    lit = rng.random(8)
    stage.shadow(stage.quad_y((x - half - 0.4, x + half + 0.4), 0, (z - 0.9, z)), 88)
    stage.cuboid("building", (x - half, x + half), (0, height), (z, z + 7), color)
    ridge = [(x - half - 0.5, height, z - 0.3), (x + half + 0.5, height, z - 0.3)]
    ridge += [(x + half * 0.55, height + 2.2, z + 3), (x - half * 0.55, height + 2.2, z + 3)]
    stage.face("building", ridge, roof)
    for k in range(1, 5):
        y, cut = height + 2.2 * k / 5, 0.45 * half * k / 5
        course = [(x - half + cut, y, z + 0.6 * k), (x + half - cut, y, z + 0.6 * k)]
        course += [(x + half - cut, y + 0.1, z + 0.6 * k), (x - half + cut, y + 0.1, z + 0.6 * k)]
        stage.paint(stage.project(course), roof, 0.8, z)
    stage.paint(stage.quad_z((x - half, x + half), (height - 0.3, height), z), color, 0.62, z)
    stage.paint(stage.quad_z((x - half, x + half), (0, 0.4), z), color, 0.72, z)
    stage.fill("door", stage.quad_z((x - 0.75, x + 0.75), (0, 2.35), z), frame, 1.0, z)
    stage.paint(stage.quad_z((x - 0.45, x + 0.45), (1.55, 2.1), z), frame, 1.5, z)
    places = [(-0.62, 0.85), (0.62, 0.85)] + [(u, 3.85) for u in (-0.62, 0, 0.62)] * (storeys - 1)
    for (u, y), light in zip(places, lit, strict=False):
        quad = stage.quad_z((x + u * half - 0.95, x + u * half + 0.95), (y, y + 1.5), z)
        _window(stage, quad, glass, z, light)
