"""Source library: annotated images of one extractor, kept as patches; add, remove, merge, save, load."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from feature_gs_ros.affordance.source import MAX_NAME_CHARACTERS, Source, check_name
from feature_gs_ros.backprojection.field import describe_extractor, identity_from_table
from feature_gs_ros.core.errors import AffordanceError, ImageError
from feature_gs_ros.extractors.base import Extractor, ExtractorIdentity
from feature_gs_ros.io.structured import Table
from feature_gs_ros.io.tensors import read_tensor_file, write_tensor_file

__all__ = ["FLOOR", "FORMAT", "Library", "check_name"]

FORMAT = "feature_gs_ros affordances 1"
SUFFIX = ".safetensors"
FLOOR = 0.8  # of the extractor's threshold for examples: that one decides alone, here negatives compete


@dataclass(frozen=True, eq=False)
class Library:
    """Sources of one extractor. Every change is a new library; `save` makes it last."""

    extractor: ExtractorIdentity
    floor: float  # cosine under which the extractor calls two features not alike: transfer abstains
    sources: tuple[Source, ...] = ()
    former: tuple[Source, ...] = ()  # removed or replaced: their files in a folder go with the next `save`

    @staticmethod
    def of(extractor: Extractor) -> Library:
        """An empty library of this extractor."""
        return Library(extractor.identity, FLOOR * extractor.example_rule.threshold)

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def affordances(self) -> tuple[str, ...]:
        """Names over all sources, in order of first appearance."""
        return tuple(dict.fromkeys(word for source in self.sources for word in source.affordances))

    def free_name(self, affordance: str, object_word: str = "") -> str:
        """A name that no source has yet, of an affordance and the object that it belongs to.

        Raises:
            AffordanceError: one of them can't be part of a file name.
        """
        stem = check_name(affordance, "affordance")
        if object_word:
            stem = f"{check_name(object_word, 'object')}-{stem}"
        taken = {source.name for source in self.sources}
        names = (f"{stem}-{number}"[-MAX_NAME_CHARACTERS:] for number in range(1, len(taken) + 2))
        return next(name for name in names if name not in taken)

    def add(self, source: Source, replace_existing: bool = False) -> Library:
        """With one more source.

        Raises:
            AffordanceError: the name is taken, or the features have another dimension.
        """
        others = tuple(other for other in self.sources if other.name != source.name)
        if len(others) < len(self) and not replace_existing:
            raise AffordanceError(
                f"the library has a source '{source.name}' already; remove it or choose another name",
                code="affordance.exists",
            )
        if others and others[0].features.shape[1] != source.features.shape[1]:
            raise AffordanceError(
                f"'{source.name}' has features of {source.features.shape[1]} dimensions, the library "
                f"{others[0].features.shape[1]}: another extractor",
                code="affordance.shape",
            )
        return replace(self._keeping(others), sources=(*others, source))

    def remove(self, name: str) -> Library:
        """Without a source.

        Raises:
            AffordanceError: there is none of this name.
        """
        others = tuple(source for source in self.sources if source.name != name)
        if len(others) == len(self):
            known = ", ".join(source.name for source in self.sources) or "none"
            raise AffordanceError(f"the library has no source '{name}'; it has {known}", code="affordance.missing")
        return self._keeping(others)

    def merge(self, other: Library) -> Library:
        """With the sources of another library.

        Raises:
            AffordanceError: another extractor, or a name is in both.
        """
        self.check_extractor(other.extractor)
        merged = replace(self, former=(*self.former, *other.former))
        for source in other.sources:
            merged = merged.add(source)
        return merged

    def _keeping(self, sources: tuple[Source, ...]) -> Library:
        """With these of its sources alone; the others are former ones."""
        return replace(self, sources=sources, former=(*self.former, *(s for s in self.sources if s not in sources)))

    def check_extractor(self, identity: ExtractorIdentity) -> None:
        """Raise an AffordanceError unless the library's features are of this extractor."""
        if identity != self.extractor:
            raise AffordanceError(
                f"the library is of the extractor {describe_extractor(self.extractor)}, "
                f"not of {describe_extractor(identity)}; "
                "add the sources anew with the field's extractor",
                code="affordance.mismatch",
            )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; into an existing folder, a file a source. Each file appears whole or not at all.

        A folder loses the files of sources that were removed or replaced, and no others.

        Raises:
            AffordanceError: it can't be written, or the folder holds a safetensors file of something else.
        """
        path = Path(path)
        try:
            if not path.is_dir():
                _save_file(self, path)
                return
            files = {path / f"{source.name}{SUFFIX}": source for source in self.sources}
            unwanted = self._unwanted(path, set(files))
            for file, source in files.items():
                _save_file(replace(self, sources=(source,)), file)
            for file in unwanted:
                file.unlink()
        except OSError as error:
            raise AffordanceError(
                f"can't write the library '{path}': {error.strerror or error}", code="affordance.unwritable"
            ) from error

    def _unwanted(self, folder: Path, written: set[Path]) -> list[Path]:
        """Files that nothing needs once ``written`` are: all that they hold is, or was, in this library.

        Raises:
            AffordanceError: the folder holds something else, which a library's folder may not.
        """
        known = (*self.sources, *self.former)
        unwanted = []
        for file in sorted(folder.glob(f"*{SUFFIX}")):
            try:
                held = _load_file(file).sources
            except AffordanceError as error:
                raise AffordanceError(
                    f"{error}; it is not part of this library: give it another folder", code=error.code
                ) from error
            if file in written:
                continue
            strange = [source.name for source in held if not any(_same(source, other) for other in known)]
            if strange:
                raise AffordanceError(
                    f"the folder '{folder}' holds '{file.name}' of another library (sources {', '.join(strange)}); "
                    "choose an empty folder, or merge that library, too",
                    code="affordance.mismatch",
                )
            unwanted.append(file)
        return unwanted

    @staticmethod
    def load(path: str | Path) -> Library:
        """Read a library: a file, or all files of a folder.

        Raises:
            AffordanceError: missing, empty, damaged, or files of different extractors.
        """
        path = Path(path)
        if not path.exists():
            raise AffordanceError(
                f"there is no library '{path}'; make one with: feature-gs affordance add IMAGE MASK --library {path}",
                code="affordance.unreadable",
            )
        files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not files:
            raise AffordanceError(f"the folder '{path}' holds no library; add a source first", code="affordance.empty")
        library, *others = [_load_file(file) for file in files]
        for other in others:
            library = library.merge(other)
        return library


_TENSORS = {
    "image": "image",
    "labels": "labels",
    "features": "features",
    "fractions": "shares",
}  # and names in the file


def _same(one: Source, other: Source) -> bool:
    return one.name == other.name and torch.equal(one.features, other.features)


def _save_file(library: Library, path: Path) -> None:
    content = {
        "teacher": {
            "name": library.extractor.name,
            "weights": library.extractor.weights,
            "preprocessing": dict(library.extractor.preprocessing),
        },
        "floor": library.floor,
        "sources": [
            {"name": source.name, "affordances": source.affordances, "object": source.object}
            for source in library.sources
        ],
    }
    tensors = {
        f"{index}.{key}": getattr(source, attribute)
        for index, source in enumerate(library.sources)
        for attribute, key in _TENSORS.items()
    }
    write_tensor_file(path, FORMAT, tensors, content)


def _load_file(path: Path) -> Library:
    tensors, content = read_tensor_file(path, FORMAT, AffordanceError, "restore it, or add its sources anew")
    library = Library(identity_from_table(content.table("teacher")), content.number("floor", least=-1, most=1))
    try:
        for index, entry in enumerate(content.tables("sources")):
            library = library.add(_source_of(entry, *(tensors[f"{index}.{key}"] for key in _TENSORS.values())))
    except (KeyError, ValueError, ImageError) as error:
        raise AffordanceError(
            f"'{path}' is damaged: {error!r}; restore it, or add its sources anew", code="affordance.value"
        ) from error
    return library


def _source_of(entry: Table, image: Tensor, labels: Tensor, features: Tensor, fractions: Tensor) -> Source:
    affordances = tuple(check_name(word, "affordance") for word in entry.texts("affordances"))
    if features.dim() != 2 or fractions.shape != (len(features), len(affordances)) or not len(features):
        raise ValueError(f"features {tuple(features.shape)} and fractions {tuple(fractions.shape)} don't fit together")
    if not (features.is_floating_point() and fractions.is_floating_point()):
        raise ValueError(f"features and fractions hold {features.dtype} and {fractions.dtype}")
    if not bool(torch.isfinite(features).all() & torch.isfinite(fractions).all() & (fractions >= 0).all()):
        raise ValueError("features or fractions are not finite, or fractions negative")
    if image.dtype != torch.uint8 or labels.dtype != torch.uint8:
        raise ValueError("image and labels are not bytes")
    name = check_name(entry.text("name"), "source")
    return Source(name, affordances, entry.text("object"), image, labels, features, fractions)
