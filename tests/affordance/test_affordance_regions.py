"""Regions with known answers: a bar on a table, in metres, in the map frame, whatever the splat's frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_gs_ros.affordance import Region, Transfer, find_regions
from feature_gs_ros.affordance.grasps import Surroundings, choose_grasp
from feature_gs_ros.backprojection.field import FeatureField, KnownView, Provenance
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation, rotation_from_quat_wxyz
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.synthetic import SPLAT_FROM_MAP as SYNTHETIC_FROM_MAP
from feature_gs_ros.synthetic import Scene, looking_at, mugs, recorded_views, sample_gaussians, tabletop
from tests.errors import raises

SPLAT_FROM_MAP = Sim3(8.0, np.array([0.5, 0.5, -0.5, 0.5]), np.array([1.0, 2.0, -3.0]))
SIZE = np.array([0.20, 0.05, 0.02])  # m


def turned(yaw: float) -> np.ndarray:
    return np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1.0]])


def bar(center: np.ndarray, rotation: np.ndarray, count: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Points on a box's surface, each with the outward normal of its side; more on the larger sides."""
    rng = np.random.default_rng(1)
    areas = np.repeat([SIZE[1] * SIZE[2], SIZE[0] * SIZE[2], SIZE[0] * SIZE[1]], 2)
    sides = rng.choice(6, count, p=areas / areas.sum())
    points = (rng.random((count, 3)) - 0.5) * SIZE
    normals = np.zeros((count, 3))
    rows, axis, sign = np.arange(count), sides // 2, np.where(sides % 2, 1.0, -1.0)
    points[rows, axis] = sign * SIZE[axis] / 2
    normals[rows, axis] = sign
    return points @ rotation.T + center, normals @ rotation.T


def flat_map(points: np.ndarray, normals: np.ndarray, alignment: Sim3 = SPLAT_FROM_MAP) -> GaussianMap:
    """Discs on a surface given in the map frame, their shortest axis along the normal, either way."""
    axes = normals @ alignment.rotation.T
    helper = np.where(np.abs(axes[:, :1]) < 0.9, [[1.0, 0, 0]], [[0, 1.0, 0]])
    first = np.cross(helper, axes)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    rotations = np.stack([first, np.cross(axes, first), axes], axis=2)
    return GaussianMap.from_tensors(
        torch.from_numpy(alignment.apply(points)),
        torch.from_numpy(np.stack([quat_wxyz_from_rotation(rotation) for rotation in rotations])),
        torch.tensor([[0.04, 0.03, 0.002]]).expand(len(points), 3),
        torch.full((len(points),), 0.8),
        torch.zeros(len(points), 1, 3),
    )


def field_of(gaussians: GaussianMap, eyes: list[list[float]], alignment: Sim3 = SPLAT_FROM_MAP) -> FeatureField:
    count = torch.ones(len(gaussians), dtype=torch.int32)
    camera = Camera(64, 48, 60, 60, 32, 24)
    views = tuple(
        KnownView(str(k), camera, alignment.camera_from_splat(looking_at(np.array(eye), np.zeros(3))))
        for k, eye in enumerate(eyes)
    )
    provenance = Provenance(gaussians.checksum, splat_from_map=alignment, views=views)
    return FeatureField(torch.zeros(len(gaussians), 2), count.float(), count, ExtractorIdentity("none"), provenance)


def all_of(labels: torch.Tensor, affordances: tuple[str, ...] = ("handle",)) -> Transfer:
    probability = torch.nn.functional.one_hot(labels, 1 + len(affordances)).float()
    seen = torch.ones(len(labels), dtype=torch.bool)
    return Transfer(affordances, probability, torch.full((len(labels),), 0.75), ~seen, seen, 1.0, 0.0)


@settings(max_examples=10, deadline=None)
@given(yaw=st.floats(-3, 3))
def test_a_bar_on_the_table(yaw: float) -> None:
    center, rotation = np.array([0.3, -0.1, 0.02]), turned(yaw)
    gaussians = flat_map(*bar(center, rotation))
    (region,) = find_regions(
        gaussians, field_of(gaussians, [[0.5, 0.2, 0.6], [0.1, -0.4, 0.6]]), all_of(torch.ones(2000).long())
    )
    assert region.affordance == "handle"
    assert np.linalg.norm(region.center - center) < 2e-3
    assert np.linalg.norm(region.centroid - center) < 5e-3
    assert region.extent == pytest.approx(SIZE, abs=0.01)
    axes = rotation_from_quat_wxyz(region.quat_wxyz)
    assert abs(axes[:, 0] @ rotation[:, 0]) > 0.999
    assert axes[2, 2] > 0.99  # the minor axis, facing the cameras above
    assert region.normal[2] > 0.97  # of a top that is seen well, and of sides that are seen less
    assert region.approach[2] < -0.97
    assert abs(region.approach @ axes[:, 0]) < 1e-9
    assert abs(region.closing @ rotation[:, 1]) > 0.97
    assert region.gripper_width == pytest.approx(SIZE[1], abs=0.005)
    assert (region.similarity, region.probability, region.coverage) == pytest.approx((0.75, 1.0, 1.0))
    gripper = rotation_from_quat_wxyz(region.gripper_quat_wxyz)
    assert gripper[:, 2] == pytest.approx(region.approach)
    assert gripper[:, 1] == pytest.approx(region.closing)


def known_parts(scene: Scene, part: str) -> tuple[Region, ...]:
    """Regions of a part's true Gaussians, as the recording's cameras see them."""
    labelled = sample_gaussians(scene, 20_000)
    eyes = [np.linalg.inv(posed.camera_from_map)[:3, 3].tolist() for posed in recorded_views(8)]
    label = next(value for value, name in scene.parts.items() if name == part)
    marked = torch.from_numpy(np.asarray(labelled.part_labels == label)).long()
    field = field_of(labelled.gaussians, eyes, alignment=SYNTHETIC_FROM_MAP)
    return tuple(find_regions(labelled.gaussians, field, all_of(marked, (part,))))


@pytest.mark.slow
def test_the_screwdrivers_grip_of_the_tabletop() -> None:
    """It lies along 15°, its axis 15.2 mm over the table, from 4 mm behind its origin to 102 mm in front."""
    (region,) = known_parts(tabletop(), "screwdriver_handle")
    along = np.array([np.cos(np.radians(15)), np.sin(np.radians(15)), 0])
    across = np.array([-along[1], along[0], 0])
    axes = rotation_from_quat_wxyz(region.quat_wxyz)
    assert np.linalg.norm(region.center - ([-0.13, 0.12, 0.0152] + 0.049 * along)) < 3e-3
    assert np.linalg.norm(region.centroid - region.center) < 5e-3
    assert abs(axes[:, 0] @ along) > 0.999
    assert region.extent == pytest.approx([0.104, 0.03, 0.029], abs=0.004)
    assert region.normal[2] > 0.9
    assert region.approach[2] < -0.98
    assert abs(region.closing @ across) > 0.98
    assert region.gripper_width == pytest.approx(0.0285, abs=0.003)


def test_the_handle_of_a_standing_mug() -> None:
    """Its band stands upright in the plane through the mug's axis at −40°: fingers close across that plane."""
    (region,) = known_parts(mugs(), "mug_red_handle")
    heading = np.array([np.cos(np.radians(-40)), np.sin(np.radians(-40)), 0])
    across = np.array([-heading[1], heading[0], 0])
    axes = rotation_from_quat_wxyz(region.quat_wxyz)
    assert abs(axes[2, 0]) > 0.95  # the band is longest upwards
    assert abs(axes[:, 2] @ across) > 0.95  # and thinnest across
    # The spine leaves the wall, 41 mm from the axis, at 0.17 and 0.83 of 95 mm and reaches 33 mm out;
    # it is 11 to 13 mm thick.
    offset = region.center - [-0.17, -0.07, 0.0]
    assert offset @ heading == pytest.approx(0.041 + 0.0175, abs=0.006)
    assert abs(offset @ across) < 2e-3
    assert offset[2] == pytest.approx(0.5 * 0.095, abs=0.004)
    assert region.extent == pytest.approx([0.076, 0.036, 0.0107], abs=0.004)
    # Between handle and mug is no room for a finger, though most cameras look down on it.
    assert region.approach @ -heading > 0.98
    assert abs(region.closing @ across) > 0.98
    assert region.gripper_width == pytest.approx(0.0117, abs=0.002)


@pytest.mark.slow
def test_the_handle_that_rises_from_a_lying_mug() -> None:
    """Its band stands across the mug's axis, which lies along 65° − 90°: the gripper comes from above."""
    (region,) = known_parts(mugs(), "mug_blue_handle")
    assert region.approach[2] < -0.85
    assert region.gripper_width == pytest.approx(0.0105, abs=0.002)


@pytest.mark.parametrize("table", [False, True])
def test_fingers_need_room(table: bool) -> None:
    """A bar seen from the side: from there fingers close over and under it, unless it lies on something."""
    points, normals = bar(np.array([0.0, 0, 0.011]), np.eye(3))
    if table:
        flat = (np.random.default_rng(2).random((3000, 3)) - 0.5) * [0.5, 0.5, 0]
        points, normals = np.concatenate([points, flat]), np.concatenate([normals, np.tile([0, 0, 1.0], (3000, 1))])
    gaussians = flat_map(points, normals)
    labels = (torch.arange(len(points)) < 2000).long()
    (region,) = find_regions(gaussians, field_of(gaussians, [[0.0, -0.9, 0.1]]), all_of(labels))
    if table:
        assert region.approach[2] < -0.98
        assert region.gripper_width == pytest.approx(SIZE[1], abs=0.003)
    else:
        assert region.approach[1] > 0.98
        assert region.gripper_width == pytest.approx(SIZE[2], abs=0.003)


def test_of_two_free_grasps_the_narrower_is_taken() -> None:
    """A bar seen from above and from one side alike, with nothing around it: fingers close on 2 cm, not on 5."""
    points, _ = bar(np.zeros(3), np.eye(3))
    normal = np.array([0.0, np.sqrt(0.5), np.sqrt(0.5)])
    nothing = Surroundings(np.zeros((0, 3)), np.zeros(0))
    grasp = choose_grasp(points, np.ones(len(points)), np.eye(3), normal, nothing)
    assert grasp.approach == pytest.approx([0, -1, 0])
    assert grasp.width == pytest.approx(SIZE[2], abs=1e-3)
    over = np.array([[0.0, 0.0, z] for z in (0.012, -0.012)]).repeat(20, axis=0)  # a finger would be there
    other = choose_grasp(points, np.ones(len(points)), np.eye(3), normal, Surroundings(over, np.ones(40)))
    assert other.approach == pytest.approx([0, 0, -1])
    assert other.width == pytest.approx(SIZE[1], abs=3e-3)


def test_the_normal_faces_the_cameras_and_up_without_any() -> None:
    """A plate in the plane x = 0, seen from +x or from −x; a disc's shortest axis says nothing about the side."""
    rng = np.random.default_rng(0)
    points = (rng.random((400, 3)) - 0.5) * [0.0, 0.1, 0.1]
    normals = np.tile([1.0, 0, 0], (400, 1)) * rng.choice([-1.0, 1.0], (400, 1))
    gaussians = flat_map(points, normals)
    for side in (1.0, -1.0):
        (region,) = find_regions(gaussians, field_of(gaussians, [[0.5 * side, 0, 0.1]]), all_of(torch.ones(400).long()))
        assert region.normal[0] * side > 0.999
        assert region.approach[0] * side < -0.99
    table = flat_map(points[:, [2, 1, 0]], np.tile([0, 0, -1.0], (400, 1)))
    (region,) = find_regions(table, field_of(table, []), all_of(torch.ones(400).long()))
    assert region.normal[2] > 0.999


def test_components_by_affordance_the_most_opaque_first() -> None:
    small, large = bar(np.array([0.0, 0, 0]), np.eye(3), 600), bar(np.array([0.6, 0, 0]), np.eye(3), 1800)
    other = bar(np.array([0.0, 0.6, 0]), np.eye(3), 900)
    lone = (np.array([[0.3, 0.3, 0.3]]), np.array([[0, 0, 1.0]]))
    gaussians = flat_map(*(np.concatenate(parts) for parts in zip(small, large, other, lone, strict=True)))
    labels = torch.tensor([1] * 2400 + [2] * 900 + [1])
    found = find_regions(gaussians, field_of(gaussians, []), all_of(labels, ("handle", "rim", "lid")))
    assert [(region.affordance, region.label, len(region.rows)) for region in found] == [
        ("handle", 1, 1800), ("handle", 1, 600), ("rim", 2, 900),
    ]  # fmt: skip
    assert set(found[2].rows) == set(range(2400, 3300))
    joined = find_regions(gaussians, field_of(gaussians, []), all_of(labels, ("handle", "rim", "lid")), radius=0.5)
    assert len(joined) == 2


def test_coverage_is_of_the_regions_box() -> None:
    gaussians = flat_map(*bar(np.zeros(3), np.eye(3)))
    field = field_of(gaussians, [])
    half = replace(field, view_count=(torch.arange(2000) % 2).int())
    labels = (torch.arange(2000) % 2).long()  # only what was seen has a label
    (region,) = find_regions(gaussians, half, all_of(labels))
    assert region.coverage == pytest.approx(0.5, abs=0.03)


def test_nothing_is_an_answer_and_bad_input_is_refused() -> None:
    gaussians = flat_map(*bar(np.zeros(3), np.eye(3), 50))
    field = field_of(gaussians, [])
    assert find_regions(gaussians, field, all_of(torch.zeros(50).long())) == []
    for radius in (0.0, -1.0, float("nan")):
        with raises("prompt.range"):
            find_regions(gaussians, field, all_of(torch.ones(50).long()), radius=radius)
    with raises("field.mismatch"):
        find_regions(flat_map(*bar(np.ones(3), np.eye(3), 50)), field, all_of(torch.ones(50).long()))


def test_one_gaussian_and_points_on_a_line_have_a_pose() -> None:
    points = np.zeros((30, 3))
    points[:, 0] = np.linspace(0, 0.1, 30)
    gaussians = flat_map(points, np.tile([0, 0, 1.0], (30, 1)))
    (region,) = find_regions(gaussians, field_of(gaussians, []), all_of(torch.ones(30).long()))
    assert np.isfinite([*region.center, *region.quat_wxyz, *region.approach, region.gripper_width]).all()
    assert region.extent[0] == pytest.approx(0.1, abs=0.01)
    alone = torch.zeros(30).long()
    alone[4] = 1
    (region,) = find_regions(gaussians, field_of(gaussians, []), all_of(alone), smallest_opacity=0.1)
    assert np.allclose(region.extent, 0, atol=1e-9)
    assert np.linalg.norm(region.quat_wxyz) == pytest.approx(1.0)
