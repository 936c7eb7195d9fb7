"""The sentences that prompts are put into, by the makers of each model, and the words that stand for anything else."""

from __future__ import annotations

# Of the seven that CLIP's authors name as the best few, those that suit objects on a table. RADIO's, dino.txt's and
# Talk2DINO's authors use CLIP's sentences, too.
CLIP = (
    "a photo of a {}.",
    "itap of a {}.",
    "a bad photo of the {}.",
    "a photo of the large {}.",
    "a photo of the small {}.",
)
# The one that SigLIP's makers publish for zero-shot classification.
SIGLIP = ("This is a photo of {}.",)
BARE = ("{}",)  # LSeg was trained on bare labels; prompts in other languages are better without an English sentence

GENERIC_WORDS = ("object", "things", "stuff", "texture")  # the negatives of language fields, as LERF has them
