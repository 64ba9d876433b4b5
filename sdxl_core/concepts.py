"""How often and how much each concept counts: `training.concepts` on the pictures of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sdxl_core.errors import UserError, did_you_mean
from sdxl_core.training_config import ConceptConfig

NO_CONCEPT = "(none)"
"""What pictures without a concept are called."""


def concept_settings(concepts: Sequence[str | None], settings: Mapping[str, ConceptConfig]) -> list[ConceptConfig]:
    """The settings of each picture, by its concept.

    Raises:
        UserError: settings for a concept that no picture has.
    """
    names = [NO_CONCEPT if concept is None else concept for concept in concepts]
    known = sorted(set(names))
    for name in settings:
        if name not in known:
            raise UserError.about(
                f"training.concepts.{name}",
                expected=f"a concept of the dataset, which has {', '.join(known)}",
                got="no such concept",
                fix=did_you_mean(name, known),
            )
    return [settings.get(name, ConceptConfig()) for name in names]
