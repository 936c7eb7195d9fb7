"""An answer drawn for people: the map from the remembered camera that shows best what was found."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import KnownView
from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import FieldError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.pictures import heat, overlay_mask, side_by_side, thumbnails, to_image
from feature_gs_ros.query.masks_2d import render_similarities
from feature_gs_ros.query.masks_3d import Answer, Segmenter
from feature_gs_ros.query.verify import JudgedLook


def answer_picture(segmenter: Segmenter, answer: Answer, backend: str = "auto") -> Image:
    """The map from the remembered camera that sees most of what was found: the mask, and the similarity.

    Below them, where there was a second look: the cut-outs with the likeliest word, and the prompt's own
    where that is another word; those that agree are framed in green.

    Raises:
        FieldError: the field remembers no camera.
    """
    known = best_view(segmenter.gaussians, segmenter.field.provenance.views, answer.mask)
    view = rasterizer.view(segmenter.gaussians, known.camera, known.camera_from_splat, backend)
    image = to_image(view.render_color())
    columns = torch.stack([answer.similarity, answer.mask.to(torch.float32)], dim=1)
    rendered, _ = render_similarities(view, columns, segmenter.field.seen)
    mask = (rendered[:, :, 1] > 0.5).numpy()
    title = f"{answer.prompt}: {answer.state.value} (view {known.name})"
    drawn = side_by_side([overlay_mask(image, mask), heat(rendered[:, :, 0])], [title, "similarity"])
    looks = [look for second in answer.second_looks for look in second.looks]
    if not looks:
        return drawn
    captions = [_caption(look) for look in looks]
    agree = [look.agrees for look in looks]
    return np.concatenate([drawn, thumbnails([look.cutout.image for look in looks], captions, agree, drawn.shape[1])])


def _caption(look: JudgedLook) -> str:
    likeliest = f"{look.word} {look.word_probability:.0%}"
    return likeliest if look.likeliest else f"{likeliest} (it {look.probability:.0%})"


def best_view(gaussians: GaussianMap, views: tuple[KnownView, ...], mask: torch.Tensor) -> KnownView:
    """The camera in which the masked Gaussians are large and whole; most of the map where none is masked."""
    if not views:
        raise FieldError(
            "the field holds no camera to render a picture from; back-project a stream again", code="field.missing"
        )
    shown = mask if bool(mask.any()) else torch.ones_like(mask)
    values = shown.to(torch.float32).unsqueeze(1)
    points = gaussians.means[shown].numpy().astype(np.float64)

    def worth(known: KnownView) -> float:
        camera = known.camera
        small = camera.resized(max(1, camera.width // 8), max(1, camera.height // 8))
        area = float(rasterizer.view(gaussians, small, known.camera_from_splat).render(values).mean())
        return area * _fraction_inside(points, known) ** 4  # cut off at the border it is hard to recognise

    return max(views, key=worth)


def _fraction_inside(points: NDArray[np.float64], known: KnownView) -> float:
    """Fraction of points [M, 3] that project into the image."""
    seen = points @ known.camera_from_splat[:3, :3].T + known.camera_from_splat[:3, 3]
    camera, front = known.camera, seen[:, 2] > 0
    z = np.where(front, seen[:, 2], 1.0)
    x, y = camera.fx * seen[:, 0] / z + camera.cx, camera.fy * seen[:, 1] / z + camera.cy
    return float((front & (x > 0) & (x < camera.width) & (y > 0) & (y < camera.height)).mean())
