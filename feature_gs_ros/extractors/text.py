"""Prompts, their synonyms and templates through a text tower, a repeated one at no cost; tokenizers from a folder."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.extractors.libraries import import_library
from feature_gs_ros.extractors.weights import OFFLINE_VARIABLE

SYNONYM_MARK = "|"  # "mug | coffee cup"
KEPT = 4096  # embeddings held


class PromptEncoder:
    """Unit embeddings of prompts: the mean over templates and synonyms, as CLIP's authors take it."""

    def __init__(self, encode: Callable[[list[str]], Tensor], templates: Sequence[str]) -> None:
        """
        Args:
            encode: texts to embeddings [T, D], not normalised.
            templates: sentences with ``{}`` for the prompt.

        Raises:
            ExtractorError: no template, or one without ``{}``.
        """
        wrong = [template for template in templates if "{}" not in template]
        if wrong or not templates:
            raise ExtractorError(
                f"templates {list(templates)} are not sentences with {{}} for the prompt", code="extractor.value"
            )
        self._encode, self._templates = encode, tuple(templates)
        self._known: dict[str, Tensor] = {}

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """[P, D] float32 on the CPU, unit length; synonyms in a prompt are parted by "|".

        Raises:
            ExtractorError: a prompt is empty.
        """
        for prompt in prompts:
            if prompt not in self._known:
                if len(self._known) >= KEPT:
                    self._known.pop(next(iter(self._known)))
                self._known[prompt] = self._embedding(prompt)
        return torch.stack([self._known[prompt] for prompt in prompts])

    def _embedding(self, prompt: str) -> Tensor:
        # Composed: "é" as one character is what tokenizers were trained on, however the keyboard sent it.
        composed = unicodedata.normalize("NFC", prompt)
        synonyms = [word.strip() for word in composed.split(SYNONYM_MARK) if word.strip()]
        if not synonyms:
            raise ExtractorError(f"prompt '{prompt}' is empty", code="extractor.empty")
        texts = [template.replace("{}", word) for word in synonyms for template in self._templates]
        with torch.inference_mode():
            embeddings = functional.normalize(self._encode(texts).float().cpu(), dim=1)
        return functional.normalize(embeddings.mean(dim=0), dim=0).clone()


def hub_tokenizer(
    name: str, folder: str | Path, length: int, clean: Callable[[str], str] = str
) -> Callable[[list[str]], Tensor]:
    """A tokenizer of the Hugging Face hub: texts to token numbers [T, length], padded.

    Args:
        name: of its repository, "owner/name", where ``folder`` holds no tokenizer.
        folder: may hold ``tokenizer.json`` and what lies beside it there.
        length: tokens of a text; longer ones are cut.
        clean: what the model's authors do to a text first.

    Raises:
        ExtractorError: transformers is missing, or the files are neither here nor to be had.
    """
    transformers = import_library("transformers", "transformers")
    path = Path(folder).expanduser()
    is_here = (path / "tokenizer.json").is_file()
    offline = {} if is_here else {"local_files_only": bool(os.environ.get(OFFLINE_VARIABLE))}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path) if is_here else name, **offline)
    except (OSError, ValueError, ImportError) as error:
        raise ExtractorError(
            f"the tokenizer '{name}' is neither in '{path}' nor to be had from the hub: {str(error).splitlines()[0]}; "
            f"hf download {name} --include 'tokenizer*' 'special*' --local-dir FOLDER, then --option tokenizer=FOLDER",
            code="extractor.missing",
        ) from error

    def tokenize(texts: list[str]) -> Tensor:
        numbers: Tensor = tokenizer(
            [clean(text) for text in texts],
            return_tensors="pt", max_length=length, padding="max_length", truncation=True,
        ).input_ids  # fmt: skip
        return numbers

    return tokenize
