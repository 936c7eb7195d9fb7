"""Tensors that claim to lie on a card and are worked out on the host: what mixes the two fails, as it would there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from feature_gs_ros.rasterizer import Accumulator, AccumulatorState, Backend, View, get_backend

if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this torch plays no devices", allow_module_level=True)
backend_registration._setup_privateuseone_for_python_backend("card")
CARD = torch.device("card", 0)
aten = torch.ops.aten
# What takes a host's tensor beside a card's: copies, and places to look at.
MIXES = {aten.copy_.default, aten.index.Tensor, aten.index_put_.default, aten.index_put.default}


class CardTensor(Tensor):
    """Claims to be a card's; `inner` holds the numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> CardTensor:
        strides = inner.stride() if inner.layout == torch.strided else None
        made: CardTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=strides, dtype=inner.dtype, device=CARD
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _CardMode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves, _ = tree_flatten((args, kwargs))
    ours = [leaf for leaf in leaves if isinstance(leaf, CardTensor)]
    target = kwargs.get("device")
    if ours and target is None and func not in MIXES:
        strangers = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, CardTensor)]
        assert all(stranger.dim() == 0 for stranger in strangers), f"{func} mixes a card's tensors with the host's"
    if target is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner = {id(tensor.inner): tensor for tensor in ours}
    plain = tree_map(lambda leaf: leaf.inner if isinstance(leaf, CardTensor) else leaf, (args, kwargs))
    found = func(*plain[0], **plain[1])
    there = torch.device(target).type == CARD.type if target is not None else bool(ours)

    def put(leaf: Any) -> Any:
        return (inner[id(leaf)] if id(leaf) in inner else CardTensor(leaf)) if isinstance(leaf, Tensor) else leaf

    return tree_map(put, found) if there else found


@contextmanager
def played_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the block, ``torch.device("cuda", 0)`` holds tensors."""
    with monkeypatch.context() as patch, torch.no_grad(), _CardMode():
        patch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
        yield


class PlayedBackend:
    """Another backend with its sums on the played card."""

    name, device = "played", CARD

    def __init__(self) -> None:
        self._own: Backend = get_backend("warp-cpu")

    def view(self, *arguments: Any) -> View:
        return self._own.view(*arguments)

    def accumulator(self, *arguments: Any) -> Accumulator:
        return PlayedAccumulator(self._own.accumulator(*arguments))  # type: ignore[return-value]

    def accumulator_bytes(self, gaussians: int, channels: int) -> int:
        return self._own.accumulator_bytes(gaussians, channels)


class PlayedAccumulator:
    """Gives the sums as a card does."""

    def __init__(self, own: Accumulator) -> None:
        self._own = own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def add(self, views: Sequence[View], grids: Any, valids: Any, sign: int = 1) -> None:
        self._own.add(views, grids, valids, sign)

    def blocks(self, rows: int) -> Iterator[tuple[Tensor, AccumulatorState]]:
        for own, sums in self._own.blocks(rows):
            columns = (sums.numerator, sums.weight, sums.view_count)
            yield CardTensor(own), AccumulatorState(*(CardTensor(column) for column in columns))
