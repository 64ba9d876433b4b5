"""A LoRA as a value, whatever file it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from sdxl_core.errors import UserError
from sdxl_core.weight_files.architecture import Architecture, Part
from sdxl_core.weight_files.streamed import Shape

NAME_ITS_MODEL = "Name the model that the LoRA was made for: by --base, or by --like where nothing goes into a base."


@dataclass(frozen=True)
class LoraModule:
    """What is added to one weight: alpha / rank * up @ down (Hu et al. 2021, arXiv:2106.09685).

    With a magnitude, the sum's rows are then scaled to it (DoRA, Liu et al. 2024, arXiv:2402.09353).
    """

    down: Tensor
    """(rank, in) of a linear layer; (rank, in, kernel, kernel) of a convolution."""
    up: Tensor
    """(out, rank); (out, rank, 1, 1)."""
    alpha: float
    magnitude: Tensor | None = None
    """(out,): DoRA's."""

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def weight_shape(self) -> Shape:
        """Of the weight that it changes."""
        return (self.up.shape[0], *self.down.shape[1:])

    def matrices(self) -> tuple[Tensor, Tensor]:
        """-> up (out, rank), down (rank, in * kernel * kernel), float64 for sums that lose nothing."""
        return self.up.flatten(1).double(), self.down.flatten(1).double()

    def delta(self) -> Tensor:
        """What is added to the weight, in its shape, float32. DoRA's magnitude is not in it."""
        up, down = self.matrices()
        return (self.scale * up @ down).reshape(self.weight_shape).float()


Modules = Mapping[Part, Mapping[str, LoraModule]]


@dataclass(frozen=True)
class LoraFile:
    """Every changed module by part and diffusers' name, and what the file's header said."""

    modules: Modules
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[Part, str, LoraModule]]:
        for part in sorted(self.modules):
            for name in sorted(self.modules[part]):
                yield part, name, self.modules[part][name]

    def with_one_alpha(self) -> LoraFile:
        """The same changes with the same alpha everywhere, the commonest; ups take up the difference.

        diffusers (0.42) reads kohya's alphas of attention layers and text encoders under names that match nothing and
        falls back on the commonest, so that a file whose alphas differ would load at wrong strengths there.
        """
        alphas = Counter(module.alpha for _, _, module in self)
        alpha = max(alphas, key=lambda value: (value != 0, alphas[value], value))
        unified = {part: {n: _with_alpha(m, alpha) for n, m in named.items()} for part, named in self.modules.items()}
        return replace(self, modules=unified)

    def with_alpha_of_rank(self) -> LoraFile:
        """The same changes with every alpha the rank, as readers take it where a file says none."""
        unified = {p: {n: _with_alpha(m, float(m.rank)) for n, m in named.items()} for p, named in self.modules.items()}
        return replace(self, modules=unified)

    @property
    def is_plain(self) -> bool:
        """Whether one alpha holds for all of it and there are no magnitudes: what diffusers reads right of kohya's."""
        modules = [module for _, _, module in self]
        return len({module.alpha for module in modules}) <= 1 and all(m.magnitude is None for m in modules)

    def require_fit(self, architecture: Architecture, where: str) -> None:
        """Raises UserError where a module is not the architecture's, or has another shape there."""
        for part, name, module in self:
            known = architecture.modules[part].get(name)
            if known != module.weight_shape:
                fix = NAME_ITS_MODEL
                expected = f"{part} {name} with a weight of shape {list(known)}" if known else f"modules of its {part}"
                got = f"one for {list(module.weight_shape)}" if known else name
                raise UserError.about(f"{where}, for {architecture.name}", expected=expected, got=got, fix=fix)

    def refuse_magnitudes(self, where: str) -> None:
        """Raises UserError for DoRA, which is not a sum and so cannot be added up or cut down."""
        for part, name, module in self:
            if module.magnitude is not None:
                fix = "Merge it into a base model instead: --base MODEL --out FOLDER."
                got = f"a DoRA ({part} {name} has a magnitude)"
                raise UserError.about(where, expected="a LoRA without magnitudes", got=got, fix=fix)


def _with_alpha(module: LoraModule, alpha: float) -> LoraModule:
    """In float32 where something changes, which rounds less than the file's own format may."""
    if module.alpha == alpha:
        return module
    return replace(module, up=module.alpha / alpha * module.up.float(), alpha=alpha)


def module_of(pieces: Mapping[str, Tensor], alpha: float | None, where: str) -> LoraModule:
    """From `down`, `up` and perhaps `magnitude`, checked. `alpha` None means the rank.

    Raises:
        UserError: a piece is missing, or they do not fit each other.
    """
    if missing := {"down", "up"} - pieces.keys():
        raise UserError.about(where, expected="a down and an up weight", got=f"no {missing.pop()}")
    down, up, magnitude = pieces["down"], pieces["up"], pieces.get("magnitude")
    kernels_fit = up.ndim == down.ndim and set(up.shape[2:]) <= {1}
    if down.ndim not in (2, 4) or not kernels_fit or up.shape[1] != down.shape[0] or down.shape[0] == 0:
        got = f"down {list(down.shape)}, up {list(up.shape)}"
        raise UserError.about(where, expected="down (rank, in, ...) and up (out, rank, ...)", got=got)
    if magnitude is not None and magnitude.numel() != up.shape[0]:
        raise UserError.about(where, expected=f"{up.shape[0]} magnitudes, one for each output", got=magnitude.numel())
    magnitude = None if magnitude is None else magnitude.reshape(-1)
    return LoraModule(down, up, float(down.shape[0] if alpha is None else alpha), magnitude)
