"""The package's own network, weights put in by hand."""

from __future__ import annotations

from pathlib import Path

import lpips
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import squeezenet1_1

from tests.eval.references import Case

SETTINGS = {"net": "squeeze", "linear": False}


def weights(folder: Path) -> dict[str, Path]:
    torch.manual_seed(1)
    save_file(squeezenet1_1(weights=None).features.state_dict(), folder / "trunk.safetensors")
    return {"trunk": folder / "trunk.safetensors"}


def reference(case: Case) -> float:
    model = lpips.LPIPS(net="squeeze", pnet_rand=True, lpips=False, verbose=False)
    trunk = load_file(case.weights["trunk"])
    for name, parameter in model.net.named_parameters():
        parameter.data = trunk[name.split(".", 1)[1]]
    first, second = (torch.tensor(image).permute(2, 0, 1)[None] / 127.5 - 1 for image in case.pictures)
    with torch.no_grad():
        return float(model(first, second))
