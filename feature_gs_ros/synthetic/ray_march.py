"""Views of a scene by sphere tracing: image, labels and depth, without any Gaussian.

Sphere tracing: Hart 1996. Every ray is traced within the bounding boxes it meets; pixels at edges and in
strong texture are averaged over more rays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.cameras import Camera, Image, check_pose
from feature_gs_ros.kernels import parallel_for
from feature_gs_ros.synthetic.distance import (
    Floats,
    Integers,
    Records,
    into_frame,
    kernel,
    object_distance,
    turned_into,
)
from feature_gs_ros.synthetic.lens import pixel_rays
from feature_gs_ros.synthetic.paint import RGB, room_light
from feature_gs_ros.synthetic.scene import Labels, Scene
from feature_gs_ros.synthetic.shading import box_span, displayed, lit_surface, outgoing

_HIT = 2e-5  # metres: a ray this near a surface has met it
_EDGE_CONTRAST = 0.08  # difference of neighbouring pixels in display units (0 to 1) that calls for more rays
_BAND = 16  # rows a thread takes at a time


@dataclass(frozen=True, eq=False)
class SyntheticView:
    """One rendered view and its ground truth at the pixels' centres."""

    image: Image  # [H, W, 3] uint8 RGB
    object_labels: Labels  # [H, W]
    part_labels: Labels  # [H, W]
    depth: NDArray[np.float32]  # [H, W] metres along the optical axis


def render_view(scene: Scene, camera: Camera, camera_from_world: NDArray[np.float64]) -> SyntheticView:
    """Render what ``camera`` sees from the pose ``camera_from_world`` [4, 4], through its lens where it has one.

    Raises:
        CameraError: the pose is not rigid, or the lens can't be inverted within the image.
    """
    pose = check_pose(camera_from_world, "the view to render")
    rays = pixel_rays(camera)
    world_from_camera = np.ascontiguousarray(pose[:3, :3].T)
    eye = -world_from_camera @ pose[:3, 3]
    height, width = camera.height, camera.width
    image, depth = np.empty((height, width, 3)), np.empty((height, width))
    objects, solids = np.empty((height, width), np.int64), np.empty((height, width), np.int64)
    coarse = np.empty((height, width, 3))

    def first_pass(start: int, stop: int) -> None:
        _trace_rows(*scene.packed, eye, world_from_camera, rays, start, stop, coarse, depth, objects, solids)

    def second_pass(start: int, stop: int) -> None:
        _refine_rows(*scene.packed, eye, world_from_camera, rays, start, stop, coarse, objects, image)

    parallel_for(height, _BAND, first_pass)
    parallel_for(height, _BAND, second_pass)
    return SyntheticView(
        image=(image * 255 + 0.5).astype(np.uint8),
        object_labels=np.append(scene.object_labels, 0).astype(np.uint16)[objects],
        part_labels=np.append(scene.solid_parts, 0).astype(np.uint16)[solids],
        depth=depth.astype(np.float32),
    )


@kernel
def _trace_ray(
    objects: Records, solids: Records, x: float, y: float, z: float, dx: float, dy: float, dz: float, limit: float
) -> tuple[float, int, int]:
    """Nearest hit along a unit direction: distance, object, solid; (limit, -1, -1) where nothing is met before."""
    best, best_object, best_solid = limit, -1, -1
    for o in range(objects.shape[0]):
        thing = objects[o]
        cx, cy, cz = thing.ball[0] - x, thing.ball[1] - y, thing.ball[2] - z
        middle, radius = cx * dx + cy * dy + cz * dz, thing.ball_radius
        if cx * cx + cy * cy + cz * cz - middle * middle > radius * radius or middle + radius < 0.0:
            continue
        lx, ly, lz = into_frame(thing, x, y, z)
        vx, vy, vz = turned_into(thing, dx, dy, dz)
        near, far = box_span(thing, lx, ly, lz, vx, vy, vz, 1e-4)
        far = min(far, best)
        t = max(near, 0.0)
        while t < far:
            d, s = object_distance(objects, solids, o, lx + t * vx, ly + t * vy, lz + t * vz)
            if d < _HIT:
                best, best_object, best_solid = t, o, s
                break
            t += max(d, _HIT)
    return best, best_object, best_solid


@kernel
def _look(
    objects: Records, solids: Records, room: Floats, eye: Floats, turn: Floats, u: float, v: float
) -> tuple[RGB, float, int, int]:
    """Display colour, depth along the optical axis, object, solid (-1: the room) along the camera's ray (u, v, 1)."""
    length = math.sqrt(u * u + v * v + 1.0)
    dx = (turn[0, 0] * u + turn[0, 1] * v + turn[0, 2]) / length
    dy = (turn[1, 0] * u + turn[1, 1] * v + turn[1, 2]) / length
    dz = (turn[2, 0] * u + turn[2, 1] * v + turn[2, 2]) / length
    wall, light = room_light(room, eye[0], eye[1], eye[2], dx, dy, dz)
    t, o, s = _trace_ray(objects, solids, eye[0], eye[1], eye[2], dx, dy, dz, wall)
    if o >= 0:
        x, y, z = eye[0] + t * dx, eye[1] + t * dy, eye[2] + t * dz
        colour, gloss, normal, visible, unoccluded = lit_surface(objects, solids, o, s, x, y, z)
        light = outgoing(room, colour, gloss, solids[s].metalness, normal, (dx, dy, dz), visible, unoccluded)
    return displayed(light), t / length, o, s


@kernel
def _trace_rows(
    objects: Records,
    solids: Records,
    room: Floats,
    eye: Floats,
    turn: Floats,
    rays: Floats,  # [H, W, 2]
    start: int,
    stop: int,
    image: Floats,
    depth: Floats,
    hit_objects: Integers,  # [H, W] written, so are the others
    hit_solids: Integers,
) -> None:
    """One ray through each pixel's centre of rows ``start : stop``."""
    for i in range(start, stop):
        for j in range(rays.shape[1]):
            light, depth[i, j], hit_objects[i, j], hit_solids[i, j] = _look(
                objects, solids, room, eye, turn, rays[i, j, 0], rays[i, j, 1]
            )
            image[i, j, 0], image[i, j, 1], image[i, j, 2] = light


@kernel
def _refine_rows(
    objects: Records,
    solids: Records,
    room: Floats,
    eye: Floats,
    turn: Floats,
    rays: Floats,  # [H, W, 2]
    start: int,
    stop: int,
    coarse: Floats,  # [H, W, 3] from the first pass
    hit_objects: Integers,  # [H, W]
    image: Floats,  # [H, W, 3] written
) -> None:
    """Average four more rays where a pixel differs from a neighbour by object or by contrast."""
    height, width = hit_objects.shape
    for i in range(start, stop):
        for j in range(width):
            up, down, left, right = max(i - 1, 0), min(i + 1, height - 1), max(j - 1, 0), min(j + 1, width - 1)
            edge = False
            for a, b in ((up, j), (down, j), (i, left), (i, right)):
                contrast = 0.0
                for c in range(3):
                    contrast = max(contrast, abs(coarse[i, j, c] - coarse[a, b, c]))
                edge = edge or hit_objects[i, j] != hit_objects[a, b] or contrast > _EDGE_CONTRAST
            red, green, blue = coarse[i, j, 0], coarse[i, j, 1], coarse[i, j, 2]
            if edge:
                red, green, blue = 0.0, 0.0, 0.0
                along_u = (rays[i, right, 0] - rays[i, left, 0]) / max(right - left, 1)
                along_v = (rays[down, j, 1] - rays[up, j, 1]) / max(down - up, 1)
                for k in range(4):  # a rotated square: no two rays share a row or a column
                    a, b = (0.125, 0.375) if k % 2 else (0.375, -0.125)
                    sign = 1.0 if k < 2 else -1.0
                    u, v = rays[i, j, 0] + sign * a * along_u, rays[i, j, 1] + sign * b * along_v
                    light = _look(objects, solids, room, eye, turn, u, v)[0]
                    red, green, blue = red + 0.25 * light[0], green + 0.25 * light[1], blue + 0.25 * light[2]
            image[i, j, 0], image[i, j, 1], image[i, j, 2] = red, green, blue
