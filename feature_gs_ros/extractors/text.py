"""PromptEncoder: prompts, their synonyms and templates through a text tower; a repeated prompt costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.core.errors import ExtractorError

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
                f"templates {list(templates)} are no sentences with {{}} for the prompt", code="extractor.value"
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
        synonyms = [word.strip() for word in prompt.split(SYNONYM_MARK) if word.strip()]
        if not synonyms:
            raise ExtractorError(f"prompt '{prompt}' is empty", code="extractor.empty")
        texts = [template.replace("{}", word) for word in synonyms for template in self._templates]
        with torch.inference_mode():
            embeddings = functional.normalize(self._encode(texts).float().cpu(), dim=1)
        return functional.normalize(embeddings.mean(dim=0), dim=0).clone()
