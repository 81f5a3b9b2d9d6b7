"""The networks of other tools with their own inference code and random weights: how long they take, nothing else.

    python Testing/benchmarks/peers.py nnunet|segresnetds

As many tiles as performance.md section 4 gives for one abdominal CT at 3 mm: four of 112 x 112 x 128 for nnU-Net's
predictor (TotalSegmentator's `--fast` setting, 118 classes) and four of 128^3 for SegResNetDS (Auto3DSeg, "quick").
"""

import sys
from types import SimpleNamespace

import torch

TOTALSEGMENTATOR_CLASSES, ABDOMEN_CLASSES = 118, 5


def nnunet() -> None:
    """nnU-Net's plain convolutional network of 31 M parameters under nnU-Net's predictor."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from torch import nn

    network = PlainConvUNet(
        input_channels=1,
        n_stages=6,
        features_per_stage=(32, 64, 128, 256, 320, 320),
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=(1, 2, 2, 2, 2, (1, 1, 2)),  # 112 is no multiple of 32
        n_conv_per_stage=2,
        num_classes=TOTALSEGMENTATOR_CLASSES,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    ).eval()
    predictor = nnUNetPredictor(
        tile_step_size=0.8,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        verbose=False,
        allow_tqdm=False,
    )
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=(112, 112, 128))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=TOTALSEGMENTATOR_CLASSES)
    predictor.allowed_mirroring_axes = None
    with torch.inference_mode():
        predictor.predict_sliding_window_return_logits(torch.rand(1, 201, 201, 128))


def segresnetds() -> None:
    """SegResNetDS as Auto3DSeg sets it up, under MONAI's sliding windows."""
    from monai.inferers import sliding_window_inference
    from monai.networks.nets import SegResNetDS

    network = SegResNetDS(
        spatial_dims=3,
        in_channels=1,
        out_channels=ABDOMEN_CLASSES,
        init_filters=32,
        blocks_down=(1, 2, 2, 4, 4, 4),
        norm="INSTANCE_NVFUSER",
        dsdepth=4,
    ).eval()
    with torch.inference_mode():
        sliding_window_inference(torch.rand(1, 1, 208, 208, 128), (128, 128, 128), 1, network, overlap=0.375)


if __name__ == "__main__":
    {"nnunet": nnunet, "segresnetds": segresnetds}[sys.argv[1]]()
