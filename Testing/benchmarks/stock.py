"""The stock pipeline: the same network and weights through MONAI's own transforms and sliding windows.

    python Testing/benchmarks/stock.py MODEL CT OUT

LoadImage, Orientation, Spacing, ScaleIntensityRange; windows of 96^3 with 50 % overlap and Gaussian weights; Invert of
the logits to the CT's grid; then the same rule for labels as ours.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from monai.data import decollate_batch
from monai.data.meta_tensor import MetaTensor
from monai.inferers import sliding_window_inference
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)

from segviz_core.merging import merge
from segviz_core.meta_model import MetaModel
from segviz_core.network import fused_logits
from segviz_core.torch_inference import load_network
from segviz_core.volumes import Volume, write_labels

WINDOW, OVERLAP = (96, 96, 96), 0.5


def main(model_file: Path, ct_file: Path, out: Path) -> None:
    """Segment `ct_file` and write the label map."""
    model = MetaModel.load(model_file)
    network = load_network(model)
    heads = [network.head(entry.name) for entry in model.organs]
    low, high = model.contract.window_hu
    prepare = Compose(
        [
            LoadImaged(keys="image"),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS", labels=None),
            Spacingd(keys="image", pixdim=model.contract.spacing_mm, mode="bilinear"),
            ScaleIntensityRanged(keys="image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True),
        ]
    )
    invert = Invertd(keys="pred", transform=prepare, orig_keys="image", nearest_interp=False)

    def predict(window: torch.Tensor) -> torch.Tensor:
        logits = fused_logits(network.representation(window), heads)
        return logits[:, :, 1] - logits[:, :, 0]

    data = prepare({"image": str(ct_file)})
    image = data["image"][None]
    with torch.inference_mode():
        pred = sliding_window_inference(image, WINDOW, 1, predict, overlap=OVERLAP, mode="gaussian")
    data["pred"] = MetaTensor(decollate_batch(pred)[0], meta=data["image"].meta)
    margins = invert(data)["pred"]
    labels = merge(np.asarray(margins, np.float32), model.organs)
    affine = np.asarray(data["image"].meta["original_affine"], np.float64)
    write_labels(out, labels, like=Volume(np.empty(labels.shape, np.int16), affine))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
