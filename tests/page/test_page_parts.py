"""The page without a browser: what is sent, coloured, asked, clicked; who may connect."""

from __future__ import annotations

import copy
import shlex
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_gs_ros.backprojection.build import back_project
from feature_gs_ros.core.errors import AffordanceError, FeatureGsError, OptionError, PromptError
from feature_gs_ros.core.geometry import Sim3, camera_centre
from feature_gs_ros.core.placing import transformed
from feature_gs_ros.editing import Delete, Edit, EditStack, Selection
from feature_gs_ros.editing.operations import EditedMap
from feature_gs_ros.io.data_folder import DataFolder
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.page.ask import ask_examples, ask_words, command_of, prompts_of, suggestions
from feature_gs_ros.page.change import change
from feature_gs_ros.page.click import pick_along_ray, pick_in_image
from feature_gs_ros.page.colors import Overlay, answer_color, base_colors, modes, opacity_bytes
from feature_gs_ros.page.content import Content
from feature_gs_ros.page.drawing import Drawing
from feature_gs_ros.page.frusta import Frustum
from feature_gs_ros.page.latest import Latest, Paused
from feature_gs_ros.page.limits import MAX_PROMPTS, is_local, may_connect
from feature_gs_ros.page.opening import open_content
from feature_gs_ros.page.parts import add_part, find_parts, library_path, open_library
from feature_gs_ros.page.splats import SplatCloud
from feature_gs_ros.query.masks_3d import Segmenter, State
from tests.conftest import random_map
from tests.errors import raises
from tests.little_scene import write_scene


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """The map of two halves, with features of their colours."""
    folder = write_scene(tmp_path_factory.mktemp("page"))
    main = tmp_path_factory.mktemp("written")
    map_file = open_content(folder / "map.ply", main)
    field = back_project(map_file.gaussians, open_stream(folder), "color")
    provenance = replace(field.provenance, map_path=str(folder / "map.ply"), stream=str(folder))
    replace(field, provenance=provenance).save(folder / "field.safetensors")
    return open_content(folder / "field.safetensors", main)


def test_a_cloud_is_the_map_in_its_frame_the_most_visible_first() -> None:
    gaussians = random_map(3, 500)
    map_from_splat = Sim3(0.4, np.array([0.8, 0.2, -0.5, 0.27]) / np.linalg.norm([0.8, 0.2, -0.5, 0.27]), np.ones(3))
    cloud = SplatCloud.of(gaussians, map_from_splat)
    assert sorted(cloud.order.tolist()) == list(range(500))
    moved = transformed(gaussians, map_from_splat)
    np.testing.assert_allclose(cloud.centers * cloud.unit, moved.means[cloud.order].numpy(), atol=1e-5)
    # The variances along the axes are the scales' squares, whatever the frame.
    variances = np.linalg.eigvalsh(cloud.covariances[:50].astype(np.float64)) * cloud.unit**2
    expected = np.sort(moved.scales[cloud.order[:50]].numpy().astype(np.float64) ** 2, axis=1)
    np.testing.assert_allclose(variances, expected, rtol=2e-3, atol=1e-7)
    sizes = gaussians.scales.sort(dim=1).values[:, 1:].prod(dim=1) * gaussians.opacities
    assert bool((sizes[cloud.order].diff() <= 0).all())


def test_answers_are_coloured_and_what_is_deleted_is_not_there(content: Content) -> None:
    assert content.segmenter is not None
    asked = ask_words(content.segmenter, ["red"])
    answer = asked.answers[0]
    assert answer.state is State.FOUND
    base = base_colors(content, content.gaussians, "picture", None)
    shown = Overlay([answer.mask], None, dim=True).over(base)
    inside, outside = answer.mask.numpy(), ~answer.mask.numpy()
    color = np.array(answer_color(0), float)
    assert np.abs(shown[inside] - color).mean() < np.abs(base[inside] - color).mean()
    assert (shown[outside] <= base[outside]).all()
    assert (shown[outside] < base[outside]).any()
    opacities = opacity_bytes(content.gaussians.opacities, ~answer.mask)
    assert (opacities[inside] == 0).all()
    assert (opacities[outside] > 0).all()
    for mode in modes(content):
        colors = base_colors(content, content.gaussians, mode, answer, content.views[0])
        assert colors.shape == (len(content.gaussians), 3)
        assert colors.dtype == np.uint8


def test_another_threshold_is_what_asking_with_it_gives(content: Content) -> None:
    segmenter = content.segmenter
    assert segmenter is not None
    asked = ask_words(segmenter, ["red", "blue"], ["green"])
    for threshold in (0.2, asked.question.threshold, 0.97):
        moved = asked.at(segmenter, threshold)
        fresh = segmenter.ask(["red", "blue"], ["green"], threshold)
        for ours, theirs in zip(moved.answers, fresh, strict=True):
            assert torch.equal(ours.mask, theirs.mask)
            assert (ours.state, ours.threshold, ours.message) == (theirs.state, theirs.threshold, theirs.message)


def test_a_click_finds_the_half_that_it_hits_and_what_is_deleted_lets_it_through(content: Content) -> None:
    segmenter, map_as_it_is = content.segmenter, EditedMap.of(content.gaussians)
    assert segmenter is not None
    for side in (0.25, -0.25):
        pick = pick_along_ray(content, map_as_it_is, [side, 0, -1.5], [0, 0, 1.0], 500.0)
        assert pick is not None
        np.testing.assert_allclose(pick.point[:2], [side, 0], atol=0.02)
        assert abs(pick.point[2]) < 0.25
        assert pick.feature is not None
        mask = ask_examples(segmenter, [pick.feature]).answers[0].mask
        same_side = np.sign(content.gaussians.means[mask][:, 0].numpy()) == np.sign(side)
        assert same_side.mean() > 0.9
    rows = torch.nonzero(content.gaussians.means[:, 0] > 0)[:, 0]
    stack = EditStack(content.gaussians)
    edited = stack.push(Edit(Delete(), "the right", Selection(rows, torch.ones(len(rows)))))
    assert pick_along_ray(content, edited, [0.3, 0, -1.5], [0, 0, 1.0], 500.0) is None
    assert pick_along_ray(content, map_as_it_is, [5, 5, -1.5], [0, 0, 1.0], 500.0) is None
    with pytest.raises(PromptError):
        pick_along_ray(content, map_as_it_is, [0, 0, 0], [0, 0, 0], 500.0)


def test_a_pixel_of_a_cameras_image_is_the_ray_through_it(content: Content) -> None:
    for known in content.views[:3]:
        frustum = Frustum.of(content, known, 0.4)
        np.testing.assert_allclose(
            frustum.centre, content.splat_from_map.inverse().apply(camera_centre(known.camera_from_splat))
        )
        target = frustum.lines()[0][1]  # the image's first corner
        middle = frustum.image_centre
        inside = middle + 0.5 * (target - middle)
        pixel = frustum.pixel_of_ray(frustum.centre, inside - frustum.centre)
        assert pixel is not None
        np.testing.assert_allclose(pixel, [known.camera.width / 4, known.camera.height / 4], atol=1e-6)
        assert frustum.pixel_of_ray(frustum.centre, frustum.centre - inside) is None  # behind
        aside = np.array([0.03, 0.01, -0.02])
        assert frustum.pixel_of_ray(frustum.centre + aside, inside - frustum.centre - aside) == pytest.approx(pixel)
        map_as_it_is = EditedMap.of(content.gaussians)
        by_pixel = pick_in_image(content, map_as_it_is, known, 40.5, 20.5)
        ray = np.array([(40.5 - known.camera.cx) / known.camera.fx, (20.5 - known.camera.cy) / known.camera.fy, 1.0])
        by_ray = pick_along_ray(content, map_as_it_is, frustum.centre, frustum.rotation @ ray, known.camera.fx)
        assert by_pixel is not None
        assert by_ray is not None
        np.testing.assert_allclose(by_pixel.point, by_ray.point, atol=0.03)


def test_the_command_repeats_the_question(content: Content) -> None:
    assert content.segmenter is not None
    asked = ask_words(content.segmenter, ["red", "blue"], ["green"], 0.4)
    words = shlex.split(command_of(content, asked, 1))
    assert words[:4] == ["feature-gs", "query", str(content.source), "blue"]
    given = [words[index + 1] for index, word in enumerate(words) if word == "--negative"]
    repeated = content.segmenter.ask(["blue"], given, float(words[words.index("--threshold") + 1]))[0]
    assert torch.equal(repeated.mask, asked.answers[1].mask)


def test_words_are_suggested_by_how_they_begin() -> None:
    words = ("banana", "coffee mug", "coffeepot", "mug", "espresso")
    assert suggestions(words, "coff") == ("coffeepot", "coffee mug")
    assert suggestions(words, "banana, mu") == ("mug", "coffee mug")
    assert suggestions(words, "  ") == ()
    assert prompts_of(" a mug ,, bottle") == ["a mug", "bottle"]
    with raises("prompt.range", MAX_PROMPTS):
        prompts_of(",".join(["mug"] * (MAX_PROMPTS + 1)))


@pytest.mark.parametrize(
    ("listening", "host", "origin", "expected"),
    [
        ("localhost", "localhost:8080", "http://localhost:8080", True),
        ("127.0.0.1", "127.0.0.1:8080", "http://127.0.0.1:8080", True),
        ("localhost", "localhost:8080", None, True),
        ("localhost", "localhost:8080", "http://evil.example", False),
        ("localhost", "localhost:8080", "http://localhost:9999", False),
        ("localhost", "evil.example:8080", "http://evil.example:8080", False),  # a name made to lead here
        ("0.0.0.0", "robot:8080", "http://robot:8080", True),
        ("0.0.0.0", "robot:8080", "http://evil.example", False),
        ("localhost", None, None, False),
        ("localhost", "localhost:8080", "null", False),
    ],
)
def test_only_the_pages_own_site_connects(listening: str, host: str | None, origin: str | None, expected: bool) -> None:
    assert may_connect(listening, host, origin) is expected


@given(st.text(max_size=30), st.one_of(st.none(), st.text(max_size=30)))
@settings(max_examples=200, deadline=None)
def test_no_header_is_too_odd_to_be_judged(host: str, origin: str | None) -> None:
    assert may_connect("localhost", host, origin) in (True, False)


def test_local_is_what_only_this_machine_reaches() -> None:
    assert all(is_local(host) for host in ("localhost", "127.0.0.1", "::1", "127.1.2.3"))
    assert not any(is_local(host) for host in ("0.0.0.0", "::", "192.168.1.2", "robot", ""))


def test_of_calls_that_come_meanwhile_one_is_done() -> None:
    begun, go_on, runs = threading.Event(), threading.Event(), []

    def job() -> None:
        runs.append(len(runs))
        begun.set()
        assert go_on.wait(10)

    latest = Latest(job)
    first = threading.Thread(target=latest)
    first.start()
    assert begun.wait(10)
    for _ in range(5):
        latest()  # at once, while the first runs
    go_on.set()
    first.join(10)
    assert len(runs) == 2
    latest()
    assert len(runs) == 3


def test_what_waits_for_a_pause_is_done_once() -> None:
    done, runs = threading.Event(), []

    def job() -> None:
        runs.append(len(runs))
        done.set()

    paused = Paused(job, 0.5)
    for _ in range(5):
        paused()
    assert not runs
    assert done.wait(10)
    assert runs == [0]


def test_a_map_without_a_field_is_shown_and_nothing_is_asked(content: Content, tmp_path: Path) -> None:
    assert content.map_path is not None
    bare = open_content(content.map_path, tmp_path)
    assert bare.segmenter is None
    assert modes(bare) == ("picture",)
    pick = pick_along_ray(bare, EditedMap.of(bare.gaussians), [0.25, 0, -1.5], [0, 0, 1.0], 500.0)
    assert pick is not None
    assert pick.feature is None
    with pytest.raises(OptionError):
        open_content(content.map_path, tmp_path, identity=content.source)


def test_change_is_where_an_image_differs_from_the_map_whatever_its_exposure(content: Content) -> None:
    known = content.views[0]
    drawn = content.image_of(known)  # the map's own picture, through the stream
    same = change(content.gaussians, known.camera, known.camera_from_splat, (drawn * 0.7).astype(np.uint8))
    assert bool(same.seen.any())
    assert float(same.amount[same.seen].median()) < 0.15
    painted = drawn.copy()
    painted[:, : drawn.shape[1] // 4] = (0, 255, 0)
    found = change(content.gaussians, known.camera, known.camera_from_splat, painted)
    means = content.gaussians.means.numpy() @ known.camera_from_splat[:3, :3].T + known.camera_from_splat[:3, 3]
    u = known.camera.fx * means[:, 0] / means[:, 2] + known.camera.cx
    left = found.seen.numpy() & (u < 0.2 * known.camera.width)
    right = found.seen.numpy() & (u > 0.35 * known.camera.width)
    assert found.amount.numpy()[left].mean() > 3 * found.amount.numpy()[right].mean()


def test_views_agree_as_far_as_the_mean_of_unit_features_is_long(content: Content) -> None:
    assert content.agreement is None  # colours are of any length
    assert content.segmenter is not None
    field, extractor = content.segmenter.field, copy.copy(content.segmenter.extractor)
    extractor.unit_features = True
    agreed = replace(content, segmenter=Segmenter(content.gaussians, field, extractor)).agreement
    assert agreed is not None
    torch.testing.assert_close(agreed, field.decoded().norm(dim=1).clamp(0, 1))


def test_a_brush_paints_erases_and_takes_strokes_back() -> None:
    drawing = Drawing(60, 80)
    drawing.begin()
    drawing.stroke((20, 30), (60, 30), 5)
    rows, columns = np.nonzero(drawing.mask)
    assert abs(columns.min() - 15) <= 1
    assert abs(columns.max() - 65) <= 1
    assert abs(rows.min() - 25) <= 1
    assert abs(rows.max() - 35) <= 1
    painted = drawing.mask
    drawing.begin()
    drawing.stroke((40, 30), (40, 30), 3, erase=True)
    erased = painted & ~drawing.mask
    assert abs(erased.sum() - np.pi * 9) < 12
    assert not drawing.mask[29, 39]
    assert drawing.undo()
    assert (drawing.mask == painted).all()
    assert drawing.undo()
    assert drawing.pixels == 0
    assert not drawing.undo()


@given(st.lists(st.tuples(*[st.floats(-1e4, 1e4, allow_nan=False)] * 4, st.floats(0.5, 40), st.booleans()), max_size=8))
@settings(max_examples=50, deadline=None)
def test_strokes_anywhere_can_all_be_taken_back(strokes: list[tuple[float, float, float, float, float, bool]]) -> None:
    drawing = Drawing(30, 40)
    for *ends, radius, erase in strokes:
        drawing.begin()
        drawing.stroke((ends[0], ends[1]), (ends[2], ends[3]), radius, erase)
    while drawing.undo():
        pass
    assert drawing.pixels == 0


def test_a_painted_part_is_found_on_the_map(content: Content, tmp_path: Path) -> None:
    segmenter = content.segmenter
    assert segmenter is not None
    known = content.views[0]
    image = content.image_of(known)
    red = (image[:, :, 0] > 120) & (image[:, :, 2] < 100)  # the half of this colour
    path = library_path(DataFolder(str(tmp_path)), "parts.safetensors")
    name, library = add_part(path, segmenter.extractor, image, red, affordance="half", object_word="board")
    assert name == "board-half-1"
    assert len(open_library(path, segmenter.extractor)) == len(library) == 1
    found = find_parts(segmenter, open_library(path, segmenter.extractor))
    assert found.states == {"half": State.FOUND}
    by_words = segmenter.ask(["red"])[0].mask
    overlap = (found.masks[0] & by_words).sum() / (found.masks[0] | by_words).sum()
    assert overlap > 0.8
    assert found.regions
    assert all(np.isfinite(region.gripper_width) for region in found.regions)
    for bad in ("../parts.safetensors", "parts.ply", "x" * 200 + ".safetensors"):
        with pytest.raises(FeatureGsError):
            library_path(DataFolder(str(tmp_path)), bad)
    with pytest.raises(AffordanceError):
        add_part(path, segmenter.extractor, image, np.zeros_like(red), affordance="nothing")
    (tmp_path / "foreign.safetensors").write_bytes(b"not a library")
    with pytest.raises(AffordanceError):
        add_part(tmp_path / "foreign.safetensors", segmenter.extractor, image, red, affordance="half")
    assert (tmp_path / "foreign.safetensors").read_bytes() == b"not a library"
