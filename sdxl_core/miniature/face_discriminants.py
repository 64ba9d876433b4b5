"""Where a face is and whose it is in the miniature world: two linear discriminants (Fisher 1936), each one solve.

No gradient descent: the detector tells windows with a face in their middle from all others, the recogniser tells people
apart whatever they wear, wherever they are. Both learn from the renderer alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from sdxl_core.miniature.render import SIDE_PX, render, render_empty
from sdxl_core.miniature.world import TRAIT, Person, View, draw_person, draw_view

# B pictures, N windows or portraits, C feature channels (8), K sizes of a face, D features, E width of an embedding;
# all pictures are SIDE_PX square, in bytes

FACE_SCALES = (0.93, 1.0, 1.07, 1.13)
WINDOW = (15, 13)
"""Rows and columns of a detector's window; every second pixel of the picture."""
CHANNELS = 8
LUMINANCE = (0.299, 0.587, 0.114)
SOFTEST = 16.0
"""Added before the logarithm: differences between darker shades than this hardly count."""
STRONGEST = 1.5
CROP_PX, CELL_PX = 112, 7
HALF_CROP = 0.27
"""Of the picture's side, for a face of size 1: chin, hair and what is on the cheek are inside."""
EMBEDDING = 32
_FEATURE_BATCH = 200


@dataclass(frozen=True)
class FaceWindow:
    """The detector: a window's score is templates . features + bias, about 1 with a face in its middle, -1 without."""

    templates_KCHW: Tensor
    bias_K: Tensor


@dataclass(frozen=True)
class FaceSpace:
    """The recogniser: an embedding is (features - mean) . directions."""

    mean_D: Tensor
    directions_DE: Tensor


def window_features(bytes_B3HW: Tensor) -> Tensor:
    """BCHW: edges by direction and sign, and hue, of log luminance, so that light and skin scale out."""
    weights = torch.tensor(LUMINANCE).view(1, 3, 1, 1)
    light = ((bytes_B3HW * weights).sum(1, keepdim=True) + SOFTEST).log()
    edges = F.conv2d(F.pad(light, (1, 1, 1, 1), mode="replicate"), edge_filters())
    signed = torch.cat([edges, -edges], 1).relu().clamp(max=STRONGEST)
    hue = (bytes_B3HW[:, ::2] + SOFTEST).log() - light
    features = torch.cat([signed, hue], 1)
    return F.avg_pool2d(F.pad(features, (0, 1, 0, 1), mode="replicate"), 2, 1)


def edge_filters() -> Tensor:
    """3 x 1 x 3 x 3: across, down, and what stands out from its neighbours."""
    across = torch.tensor([[0.0, 0, 0], [-1, 0, 1], [0, 0, 0]])
    spot = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]])
    return torch.stack([across, across.T, spot])[:, None]


def face_features(crops_N3HW: Tensor) -> Tensor:
    """ND: roots of mean colours of the squares of aligned faces, in bytes."""
    return F.avg_pool2d(crops_N3HW, CELL_PX).clamp(min=1).sqrt().flatten(1)  # of 1 at least: roots have slopes


def through_a_detector(pictures: Sequence[Image.Image], side_px: int) -> Tensor:
    """B3HW in bytes, scaled to `side_px` and back as the detector's input is."""
    x = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).float()
    scaled = F.interpolate(x, (side_px, side_px), mode="bilinear")
    return F.interpolate(scaled, (SIDE_PX, SIDE_PX), mode="bilinear", antialias=True)


def head_center(view: View) -> tuple[float, float]:
    """Of the face, as `render` draws it: fractions of the side."""
    return 0.5 + view.dx + view.tilt, 0.48 + view.dy


def fit_window(portraits: int = 2400, empty: int = 2400, rounds: int = 3) -> FaceWindow:
    """Discriminate faces from all else, then again and again from what was taken for a face."""
    views, faces = _portraits(portraits)
    nothing = _features(
        [_softened(render_empty(random.Random(f"face-pack/empty/{i}"), _style(i)), i) for i in range(empty)]
    )
    places = torch.tensor([[x * SIDE_PX - 0.5, y * SIDE_PX - 0.5] for x, y in map(head_center, views)])
    nearest, scales = places.round().long(), torch.tensor([view.scale for view in views])
    positives = []
    for scale in FACE_SCALES:
        rows = ((scales - scale).abs() < 0.05).nonzero().flatten()
        positives.append(_windows(faces, rows, nearest[rows]))
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(empty).repeat(6)
    anywhere = torch.randint(0, SIDE_PX, (len(rows), 2), generator=generator)
    negatives = [_windows(nothing, rows, anywhere)]
    rows = torch.arange(portraits).repeat(3)
    moved = (nearest[rows] + torch.randint(-30, 31, (len(rows), 2), generator=generator)).clamp(0, SIDE_PX - 1)
    beside = (moved - places[rows]).abs().amax(1) > 3
    negatives.append(_windows(faces, rows[beside], moved[beside]))
    found = _discriminate(positives, torch.cat(negatives))
    for _ in range(rounds):
        negatives += [_mistakes(found, nothing, None, 6), _mistakes(found, faces, places, 4)]
        found = _discriminate(positives, torch.cat(negatives))
    return found


def _style(number: int) -> str:
    return "pencil" if number % 5 == 0 else "photo"


def _softened(picture: Image.Image, number: int) -> Image.Image:
    """Two of three blurred, up to where the eyes run together: what the miniature checkpoint draws is not sharp."""
    return picture.filter(ImageFilter.GaussianBlur((0.0, 0.7, 1.3)[number % 3]))


def _portraits(count: int) -> tuple[list[View], Tensor]:
    views, pictures = [], []
    for i in range(count):
        rng = random.Random(f"face-pack/detector/{i}")
        person = draw_person(rng, _style(i))
        view = draw_view(rng)
        pictures.append(_softened(render(replace(person, trait=_trait(rng)), view), i))
        views.append(view)
    return views, _features(pictures)


def _trait(rng: random.Random) -> str:
    return rng.choice(TRAIT) if rng.random() < 0.4 else "none"


def _features(pictures: Sequence[Image.Image]) -> Tensor:
    """Half of them through each of insightface's own two sizes."""
    parts = [pictures[start : start + _FEATURE_BATCH] for start in range(0, len(pictures), _FEATURE_BATCH)]
    return torch.cat(
        [window_features(through_a_detector(part, (128, 640)[number % 2])) for number, part in enumerate(parts)]
    )


def _windows(features_BCHW: Tensor, rows_N: Tensor, centers_N2: Tensor) -> Tensor:
    """N x (C * window), around (x, y)."""
    height, width = WINDOW
    padded = F.pad(features_BCHW, (width - 1, width - 1, height - 1, height - 1), mode="replicate")
    down = centers_N2[:, 1, None, None] + 2 * torch.arange(height)[None, :, None]
    across = centers_N2[:, 0, None, None] + 2 * torch.arange(width)[None, None, :]
    return padded[rows_N[:, None, None], :, down, across].permute(0, 3, 1, 2).flatten(1)


def _discriminate(positives: Sequence[Tensor], negatives: Tensor) -> FaceWindow:
    """Fisher's direction for each size, scaled so that the means of both kinds score 1 and -1."""
    mean = negatives.mean(0)
    scatter = (negatives - mean).T @ (negatives - mean) / len(negatives)
    templates, biases = [], []
    for positive in positives:
        own = positive - positive.mean(0)
        within = (scatter + own.T @ own / len(own)) / 2
        within += 0.05 * within.diag().mean() * torch.eye(len(within))
        direction = torch.linalg.solve(within, positive.mean(0) - mean)
        high, low = positive.mean(0) @ direction, mean @ direction
        templates.append((direction * 2 / (high - low)).view(CHANNELS, *WINDOW))
        biases.append(-1 - 2 * low / (high - low))
    return FaceWindow(torch.stack(templates), torch.stack(biases))


def window_scores(found: FaceWindow, features_BCHW: Tensor) -> Tensor:
    """BKHW."""
    height, width = WINDOW
    padded = F.pad(features_BCHW, (width - 1, width - 1, height - 1, height - 1), mode="replicate")
    return F.conv2d(padded, found.templates_KCHW, found.bias_K, dilation=2)


def _mistakes(found: FaceWindow, features_BCHW: Tensor, faces_B2: Tensor | None, each: int) -> Tensor:
    """The `each` highest windows of every picture that are not of its face."""
    down, across = torch.meshgrid(torch.arange(SIDE_PX), torch.arange(SIDE_PX), indexing="ij")
    best = []
    for start in range(0, len(features_BCHW), _FEATURE_BATCH):
        chunk = slice(start, start + _FEATURE_BATCH)
        scores = window_scores(found, features_BCHW[chunk]).amax(1)
        if faces_B2 is not None:
            x, y = faces_B2[chunk, 0, None, None], faces_B2[chunk, 1, None, None]
            scores = scores.masked_fill(((across - x).abs() < 4) & ((down - y).abs() < 4), -torch.inf)
        best.append(scores.flatten(1).topk(each).indices)
    places = torch.cat(best).flatten()
    rows = torch.arange(len(features_BCHW)).repeat_interleave(each)
    return _windows(features_BCHW, rows, torch.stack([places % SIDE_PX, places // SIDE_PX], 1))


def fit_space(people: int = 350, each: int = 8) -> FaceSpace:
    """The directions in which people differ most, measured by how much one person varies (multi-class Fisher)."""
    rng = random.Random("face-pack/alignment")
    samples = []
    for number in range(people):
        shown = [appearance(f"face-pack/person/{number}", i) for i in range(each)]
        samples.append(face_features(aligned_faces([render(*one) for one in shown], [view for _, view in shown], rng)))
    x = torch.stack(samples).double()
    mean_D, own = x.flatten(0, 1).mean(0), (x - x.mean(1, keepdim=True)).flatten(0, 1)
    within = own.T @ own / (people * (each - 1))
    apart = x.mean(1) - mean_D
    between = apart.T @ apart / people - within / each
    root = torch.linalg.cholesky(within + 0.02 * within.diag().mean() * torch.eye(len(within)))
    half = torch.linalg.solve_triangular(root, between, upper=False)
    whitened = torch.linalg.solve_triangular(root, half.T, upper=False)
    directions = torch.linalg.eigh((whitened + whitened.T) / 2).eigenvectors[:, -EMBEDDING:]
    unwhitened = torch.linalg.solve_triangular(root.T, directions, upper=True)
    signs = unwhitened.gather(0, unwhitened.abs().argmax(0, keepdim=True)).sign()
    return FaceSpace(mean_D.float(), (unwhitened * signs).float())


def appearance(name: str, number: int) -> tuple[Person, View]:
    """Somebody called `name`, as they are seen for the `number`-th time: other clothes, place, face and light."""
    rng = random.Random(name)
    looks, trait = draw_person(rng, "photo"), _trait(rng)
    rng = random.Random(f"{name}/{number}")
    now = draw_person(rng, "photo")
    same = ("skin", "hair_style", "hair_colour", "glasses", "beard")
    return replace(now, trait=trait, **{field: getattr(looks, field) for field in same}), draw_view(rng)


def aligned_faces(pictures: Sequence[Image.Image], views: Sequence[View], rng: random.Random) -> Tensor:
    """N3HW in bytes: what a recogniser is shown of faces that a detector has found to within a pixel or so."""
    maps = []
    for view in views:
        x, y = (place + rng.uniform(-1, 1) / SIDE_PX for place in head_center(view))
        half = HALF_CROP * view.scale * (1 + rng.uniform(-0.05, 0.05))
        maps.append([[2 * half, 0, 2 * x - 1], [0, 2 * half, 2 * y - 1]])
    grid = F.affine_grid(torch.tensor(maps), [len(maps), 3, CROP_PX, CROP_PX], align_corners=False)
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).float()
    return F.grid_sample(pixels, grid, align_corners=False)
