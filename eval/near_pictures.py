"""The pictures that the report shows beside the instance pictures that they are nearest to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.config import GalleryConfig
from eval.gallery import Thumbnail, thumbnail
from eval.images import GeneratedImage, Picture
from eval.nearest import Near


@dataclass(frozen=True)
class NearPictures:
    near: Near
    prompt: str
    instance: Thumbnail | None
    candidate: Thumbnail | None
    base: Thumbnail | None


def near_pictures(
    pairs: Sequence[Near],
    images: Mapping[str, Sequence[GeneratedImage]],
    instances: Sequence[Picture],
    sizes: GalleryConfig,
) -> list[NearPictures]:
    """The first `sizes.nearest` of `pairs`. `images`: of base and candidate."""
    known = {picture.identity: picture for picture in instances}
    base, candidate = ({image.key: image for image in images[side]} for side in ("base", "candidate"))

    def shown(picture: Picture | None) -> Thumbnail | None:
        return None if picture is None else thumbnail(picture, sizes.max_side_px)

    found = []
    for near in pairs[: sizes.nearest]:
        key = (near.prompt_id, near.replicate)
        three = (known.get(near.instance), candidate[key], base.get(key))
        found.append(NearPictures(near, candidate[key].prompt, *map(shown, three)))
    return found
