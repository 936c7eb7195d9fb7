"""Views of a scene by sphere tracing: image, labels and depth, without any Gaussian.

Sphere tracing: Hart 1996. Every ray is traced within the bounding boxes it meets; pixels at edges and in
strong texture are averaged over more rays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, Image, check_pose
from feature_gs_ros.core.lens import pixel_rays
from feature_gs_ros.numerics.runtime import parallel_for
from feature_gs_ros.synthetic.distance import (
    Floats,
    Integers,
    Records,
    into_frame,
    kernel,
    object_distance,
    turned_into,
)
from feature_gs_ros.synthetic.paint import room_light
from feature_gs_ros.synthetic.scene import Labels, Scene
from feature_gs_ros.synthetic.shading import box_span, displayed, lit_surface, outgoing

_HIT = 2e-5  # metres: a ray this near a surface has met it
_EDGE_CONTRAST = 0.08  # difference of neighbouring pixels in display units (0 to 1) that calls for more rays
_BATCH = 8192  # rays a thread takes at a time


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
    size = (camera.height, camera.width)
    colours, depth, objects, solids = _trace(scene, pose, rays.reshape(-1, 2))
    image, objects = colours.reshape(*size, 3), objects.reshape(size)
    rough = _edges(image, objects)
    # Four more rays on a rotated square: no two of them share a row or a column.
    offsets = np.array([(0.375, -0.125), (0.125, 0.375), (-0.375, 0.125), (-0.125, -0.375)])
    more = rays[rough] + (offsets / (camera.fx, camera.fy))[:, None]
    image[rough] = _trace(scene, pose, more.reshape(-1, 2))[0].reshape(4, -1, 3).mean(axis=0)
    return SyntheticView(
        image=(image * 255 + 0.5).astype(np.uint8),
        object_labels=np.append(scene.object_labels, 0).astype(np.uint16)[objects],
        part_labels=np.append(scene.solid_parts, 0).astype(np.uint16)[solids.reshape(size)],
        depth=depth.reshape(size).astype(np.float32),
    )


def _trace(scene: Scene, pose: Floats, rays: Floats) -> tuple[Floats, Floats, Integers, Integers]:
    """Colour [N, 3], depth, object and solid [N] (-1: the room) along ``rays`` [N, 2] of a camera."""
    world_from_camera = np.ascontiguousarray(pose[:3, :3].T)
    eye = -world_from_camera @ pose[:3, 3]
    colours, depth = np.empty((len(rays), 3)), np.empty(len(rays))
    objects, solids = np.empty(len(rays), np.int64), np.empty(len(rays), np.int64)

    def trace(start: int, stop: int) -> None:
        _trace_rays(*scene.packed, eye, world_from_camera, rays, start, stop, colours, depth, objects, solids)

    parallel_for(len(rays), _BATCH, trace)
    return colours, depth, objects, solids


def _edges(image: Floats, objects: Integers) -> NDArray[np.bool_]:
    """Pixels [H, W] that differ from a neighbour by object or by contrast."""
    rough = np.zeros(objects.shape, np.bool_)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        contrast = np.abs(image[one] - image[other]).max(axis=2)
        differ = (objects[one] != objects[other]) | (contrast > _EDGE_CONTRAST)
        rough[one] |= differ
        rough[other] |= differ
    return rough


@kernel
def _nearest_hit(
    objects: Records, solids: Records, x: float, y: float, z: float, dx: float, dy: float, dz: float, limit: float
) -> tuple[float, int, int]:
    """Nearest hit along a unit direction: distance, object, solid; (limit, -1, -1) where nothing is met before."""
    best, best_object, best_solid = limit, -1, -1
    for o in range(objects.shape[0]):
        obj = objects[o]
        cx, cy, cz = obj.ball[0] - x, obj.ball[1] - y, obj.ball[2] - z
        middle, radius = cx * dx + cy * dy + cz * dz, obj.ball_radius
        if cx * cx + cy * cy + cz * cz - middle * middle > radius * radius or middle + radius < 0.0:
            continue
        lx, ly, lz = into_frame(obj, x, y, z)
        vx, vy, vz = turned_into(obj, dx, dy, dz)
        near, far = box_span(obj, lx, ly, lz, vx, vy, vz, 1e-4)
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
def _trace_rays(
    objects: Records,
    solids: Records,
    room: Floats,
    eye: Floats,  # [3]
    turn: Floats,  # [3, 3] world from camera
    rays: Floats,  # [N, 2] (u, v) of the directions (u, v, 1) in the camera
    start: int,
    stop: int,
    colours: Floats,  # [N, 3] written, so are the others
    depth: Floats,
    hit_objects: Integers,
    hit_solids: Integers,
) -> None:
    """Display colours and what is met along rays ``start : stop``."""
    for i in range(start, stop):
        u, v = rays[i, 0], rays[i, 1]
        length = math.sqrt(u * u + v * v + 1.0)
        dx = (turn[0, 0] * u + turn[0, 1] * v + turn[0, 2]) / length
        dy = (turn[1, 0] * u + turn[1, 1] * v + turn[1, 2]) / length
        dz = (turn[2, 0] * u + turn[2, 1] * v + turn[2, 2]) / length
        wall, light = room_light(room, eye[0], eye[1], eye[2], dx, dy, dz)
        t, o, s = _nearest_hit(objects, solids, eye[0], eye[1], eye[2], dx, dy, dz, wall)
        if o >= 0:
            x, y, z = eye[0] + t * dx, eye[1] + t * dy, eye[2] + t * dz
            colour, gloss, normal, visible, unoccluded = lit_surface(objects, solids, o, s, x, y, z)
            light = outgoing(room, colour, gloss, solids[s].metalness, normal, (dx, dy, dz), visible, unoccluded)
        colours[i, 0], colours[i, 1], colours[i, 2] = displayed(light)
        depth[i], hit_objects[i], hit_solids[i] = t / length, o, s
