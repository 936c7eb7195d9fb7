"""What an answer comes to: the objects it found, and its JSON for machines."""

from __future__ import annotations

from feature_gs_ros.query.masks_3d import Answer, Segmenter, State
from feature_gs_ros.query.objects import FoundObject, find_objects
from feature_gs_ros.query.verify import SecondLook


def objects_of(segmenter: Segmenter, answer: Answer) -> list[FoundObject]:
    """Of what was found; a few Gaussians that pass by chance are no object."""
    if answer.state is not State.FOUND:
        return []
    map_from_splat = segmenter.field.provenance.splat_from_map.inverse()
    return find_objects(segmenter.gaussians, answer.mask, answer.similarity, map_from_splat)


def as_json(answer: Answer, objects: list[FoundObject]) -> dict[str, object]:
    """An answer for machines; lengths in the map frame, in metres where the field's alignment gives them."""
    return {
        "prompt": answer.prompt,
        "state": answer.state.value,
        "message": answer.message,
        "gaussians": int(answer.mask.sum()),
        "coverage": round(answer.coverage, 6),
        "threshold": answer.threshold,
        "best_similarity": round(float(answer.similarity.max()), 6),
        "seconds": round(answer.seconds, 4),
        "rival": answer.rival or None,
        "verify_seconds": round(answer.verify_seconds, 4),
        "second_looks": [_second_look_json(look) for look in answer.second_looks],
        "objects": [
            {
                "center": found.box.center.round(6).tolist(),
                "quat_wxyz": found.box.quat_wxyz.round(6).tolist(),
                "size": found.box.size.round(6).tolist(),
                "gaussians": len(found.rows),
                "score": round(found.score, 6),
            }
            for found in objects
        ],
    }


def _second_look_json(second: SecondLook) -> dict[str, object]:
    return {
        "confirmed": second.confirmed,
        "agreeing": second.agreeing,
        "looks": [
            {
                "view": look.cutout.look,
                "box": list(look.cutout.box),
                "word": look.word,
                "word_probability": round(look.word_probability, 4),
                "probability": round(look.probability, 4),
                "agrees": look.agrees,
                "likeliest": look.likeliest,
            }
            for look in second.looks
        ],
        "probability": round(second.probability, 4),
        "rival": second.rival,
        "rival_probability": round(second.rival_probability, 4),
        "near_synonyms": list(second.kin),
    }
