"""Identity codes: orthogonal, contrastive, their separation, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from feature_gs_ros.extractors import extractor_of
from feature_gs_ros.extractors.codes import IdentityExtractor
from feature_gs_ros.identity import codes
from feature_gs_ros.identity.codes import CodeBook, contrastive_codes, make_codes, orthogonal_codes, train_codes
from tests.errors import raises


@pytest.mark.parametrize(("classes", "dimension"), [(7, 7), (7, 16), (1, 4)])
def test_orthogonal_rows_are_orthonormal_and_read_themselves(classes: int, dimension: int) -> None:
    book = orthogonal_codes(classes, dimension)
    torch.testing.assert_close(book.codes @ book.codes.T, torch.eye(classes), atol=1e-6, rtol=0)
    if classes > 1:
        assert book.smallest_angle == pytest.approx(90.0, abs=1e-3)
        assert book.margin == pytest.approx(1.0, abs=1e-6)
    codec = book.codec()
    if codec is not None:
        labels = torch.eye(classes)
        torch.testing.assert_close(codec.decode(codec.encode(labels)), labels, atol=1e-6, rtol=0)


def test_more_classes_than_dimensions_are_refused_with_the_limit() -> None:
    with raises("identity.range", "17", "16"):
        orthogonal_codes(17, 16)
    with raises("identity.range"):
        orthogonal_codes(0)
    with raises("identity.unknown"):
        make_codes("onehot", 3)


def test_the_gradient_is_that_of_the_equations() -> None:
    """Against torch's autograd of the loss as the docstring has it."""
    rng = np.random.default_rng(3)
    embedding, classifier = (rng.standard_normal((9, 5)).astype(np.float32) for _ in range(2))
    e, w = (torch.from_numpy(values.astype(np.float64)).requires_grad_() for values in (embedding, classifier))
    unit_e, unit_w = torch.nn.functional.normalize(e, dim=1), torch.nn.functional.normalize(w, dim=1)
    logits = codes.SHARPNESS * unit_e @ unit_w.T
    frame = ((unit_e @ unit_e.T - torch.eye(9)) ** 2).sum() / 9
    (torch.nn.functional.cross_entropy(logits, torch.arange(9)) + frame).backward()  # type: ignore[no-untyped-call]
    by_e, by_w = codes.gradients(embedding, classifier)
    assert e.grad is not None
    assert w.grad is not None
    np.testing.assert_allclose(by_e, e.grad.numpy(), atol=2e-5)
    np.testing.assert_allclose(by_w, w.grad.numpy(), atol=2e-5)


@pytest.mark.slow
def test_200_contrastive_codes_lie_apart_and_survive_mixing() -> None:
    book = train_codes(201, 16)
    assert book.smallest_angle > 45.0
    assert book.margin > 0
    norms = book.codes.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(201), atol=1e-5, rtol=0)
    first, second = torch.randint(201, (2, 5000), generator=torch.Generator().manual_seed(0))
    mixed = 0.7 * book.codes[first] + 0.3 * book.codes[second]
    assert float(((mixed @ book.classifier.T).argmax(dim=1) == first).float().mean()) > 0.99


def test_few_contrastive_codes_become_orthogonal() -> None:
    assert train_codes(6, 16).smallest_angle > 85.0


def test_codes_are_the_same_each_time_and_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = contrastive_codes(12, 4, seed=5, cache=tmp_path)
    again = train_codes(12, 4, seed=5)
    assert torch.equal(first.codes, again.codes)
    assert not torch.equal(first.codes, train_codes(12, 4, seed=6).codes)
    monkeypatch.setattr(codes, "train_codes", lambda *_: pytest.fail("trained again"))
    assert torch.equal(contrastive_codes(12, 4, seed=5, cache=tmp_path).classifier, first.classifier)
    monkeypatch.undo()
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(b"damaged")
    assert torch.equal(contrastive_codes(12, 4, seed=5, cache=tmp_path).codes, first.codes)


def test_coinciding_codes_are_refused(tmp_path: Path) -> None:
    with raises("identity.coinciding"):
        contrastive_codes(150, 2, cache=tmp_path)  # 150 directions of a plane are 2.4° apart at best


def test_angle_and_margin_of_hand_made_codes() -> None:
    book = CodeBook("contrastive", torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5]]), torch.eye(2))
    assert book.smallest_angle == pytest.approx(60.0, abs=1e-3)
    assert book.margin == pytest.approx(0.75**0.5 - 0.5)


def test_a_books_codec_encodes_by_the_codes_and_decodes_by_the_classifier() -> None:
    book = CodeBook(
        "contrastive", torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), torch.tensor([[2.0, -1], [1, 1], [0, 3]])
    )
    codec = book.codec()
    assert codec is not None
    assert torch.equal(codec.encode(torch.eye(3)), book.codes)
    assert torch.equal(codec.decode(torch.tensor([0.5, 2.0])), torch.tensor([-1.0, 2.5, 6.0]))
    assert CodeBook("orthogonal", torch.eye(3), torch.eye(3)).codec() is None


def test_scores_are_over_a_half_for_the_likeliest_class_alone() -> None:
    extractor = IdentityExtractor({"0": "background", "2": "mug", "5": "box"}, "orthogonal", 3)
    features = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.0, 0.0], [0.5, -0.1, 0.4], [0.1, 0.45, 0.45]])
    scores = extractor.scores(features, extractor.embed(["mug", "box"]))
    assert scores[0].tolist() == pytest.approx([0.6, 0.4])
    assert scores[1].tolist() == pytest.approx([0.5, 0.5])  # nothing seen: nobody wins
    assert bool((scores[2] < 0.5).all())
    assert scores[3].tolist() == pytest.approx([0.5, 0.5])
    made = extractor_of(extractor.identity)
    assert made.identity == extractor.identity
    with raises("extractor.missing"):
        extractor.extract(np.zeros((2, 2, 3), np.uint8))
