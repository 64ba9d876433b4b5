"""The faces of a training set's rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from sdxl_core.batch import FaceTargets
from sdxl_core.errors import UserError
from sdxl_core.identity.face_model import WHERE
from sdxl_core.identity.targets import INDEX_FILE, TENSORS_FILE

# N pictures, V variants, B rows, D width of embeddings, 23: affine matrix

Place = tuple[str, str]
"""A picture's sha256 and the size of its training pictures (`832x1216`)."""


class TrainingFaces:
    """Where the face is in any training picture, and what it is held against."""

    def __init__(
        self, alignment_NV23: Tensor, shown_NV: Tensor, reference_NVD: Tensor, rows: Mapping[Place, int]
    ) -> None:
        self.alignment_NV23 = alignment_NV23
        self.shown_NV = shown_NV
        self.reference_NVD = reference_NVD
        self.rows = rows

    @classmethod
    def load(
        cls, folder: Path, concepts: Mapping[str, str | None], reference: Literal["mean", "picture"]
    ) -> TrainingFaces:
        """From an `identity` artifact. `concepts` are those of the pictures that are trained, by sha256.

        Raises:
            UserError: a picture that is trained is not among the artifact's, or none of them shows a face.
        """
        tensors = load_file(folder / TENSORS_FILE)
        index = [json.loads(line) for line in (folder / INDEX_FILE).read_text(encoding="utf-8").splitlines()]
        sha256s = [line["image_sha256"] for line in index]
        trained = [sha256 in concepts for sha256 in sha256s]
        if strange := sorted(concepts.keys() - set(sha256s)):
            raise UserError.about(str(folder), expected="the faces of the pictures that are trained", got=strange[0])
        if not bool((tensors["shown_NV"].sum(1) * torch.tensor(trained)).any()):
            raise UserError(f"{WHERE}: no picture that is trained shows a face")
        embedding_NVD = tensors["embedding_NVD"]
        if reference == "mean":
            embedding_NVD = _means(embedding_NVD, sha256s, concepts)
        rows = {(line["image_sha256"], line["size"]): row for row, line in enumerate(index)}
        return cls(tensors["alignment_NV23"], tensors["shown_NV"], embedding_NVD, rows)

    @property
    def width(self) -> int:
        """Of embeddings."""
        return self.reference_NVD.shape[-1]

    def pick(self, pictures: Sequence[tuple[Place, int] | None]) -> FaceTargets:
        """Of rows, each a picture's place and variant; None: a row that has no identity, such as a class image."""
        rows_B = torch.tensor([0 if picture is None else self.rows[picture[0]] for picture in pictures])
        variants_B = torch.tensor([0 if picture is None else picture[1] for picture in pictures])
        has_one_B = torch.tensor([picture is not None for picture in pictures])
        shown_B = self.shown_NV[rows_B, variants_B] * has_one_B
        return FaceTargets(self.alignment_NV23[rows_B, variants_B], shown_B > 0, self.reference_NVD[rows_B, variants_B])


def _means(embedding_NVD: Tensor, sha256s: Sequence[str], concepts: Mapping[str, str | None]) -> Tensor:
    """For every row the mean over its concept's pictures, each counted once, of length 1 again."""
    reference_NVD = torch.zeros_like(embedding_NVD)
    first_row = {sha256: row for row, sha256 in reversed([*enumerate(sha256s)]) if sha256 in concepts}
    for concept in set(concepts.values()):
        of_concept = [row for sha256, row in sorted(first_row.items()) if concepts[sha256] == concept]
        mean_VD = F.normalize(embedding_NVD[of_concept].sum(0), dim=-1)  # pictures without a face are zeros
        reference_NVD[_rows_of(sha256s, concepts, concept)] = mean_VD
    return reference_NVD


def _rows_of(sha256s: Sequence[str], concepts: Mapping[str, str | None], concept: str | None) -> list[int]:
    return [row for row, sha256 in enumerate(sha256s) if sha256 in concepts and concepts[sha256] == concept]
