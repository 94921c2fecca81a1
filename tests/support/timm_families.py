"""One small network of each family of timm that has a head, with random weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

import featup_app.backbones.loading as loading
from featup_app.backbones import Backbone, find_backbone


def _sized(side: int, **options: Any) -> dict[str, Any]:
    """Options of a network that is made for square inputs of this side."""
    return {"pretrained_cfg_overlay": {"input_size": (3, side, side)}, **options}


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "beit": ("beit_base_patch16_224", _sized(64, depth=2, embed_dim=48, num_heads=3)),
    "byoanet": ("botnet26t_256", _sized(128, img_size=128)),
    "byobnet": ("test_byobnet", {}),
    "cait": ("cait_xxs24_224", _sized(64, depth=3)),
    "coat": ("coat_tiny", _sized(64)),
    "convit": ("convit_tiny", _sized(64)),
    "convmixer": ("convmixer_768_32", {}),
    "convnext": ("test_convnext", {}),
    "cpubone": ("cpubone_nano", {}),
    "crossvit": ("crossvit_tiny_240", {}),
    "csatv2": ("csatv2", {}),
    "cspnet": ("cs3darknet_focus_s", {}),
    "cspnext": ("cspnext_tiny", {}),
    "davit": ("davit_tiny", {"depths": (1, 1, 1, 1), "embed_dims": (24, 48, 96, 96)}),
    "deit": ("deit_tiny_distilled_patch16_224", {}),
    "densenet": ("densenet121", {"block_config": (2, 2, 2, 2)}),
    "dla": ("dla46x_c", {}),
    "dpn": ("dpn48b", {}),
    "edgenext": ("edgenext_xx_small", {}),
    "efficientformer": ("efficientformer_l1", {}),
    "efficientformer_v2": ("efficientformerv2_s0", {}),
    "efficientnet": ("test_efficientnet", {}),
    "efficientvim": ("efficientvim_m1", {}),
    "efficientvit_mit": ("efficientvit_b0", {}),
    "efficientvit_msra": ("efficientvit_m0", {}),
    "eva": ("eva02_tiny_patch14_224", {"depth": 3}),
    "fasternet": ("fasternet_t0", {}),
    "fastvit": ("fastvit_t8", {}),
    "focalnet": ("focalnet_tiny_srf", {}),
    "gcvit": ("gcvit_xxtiny", {}),
    "ghostnet": ("ghostnet_050", {}),
    "hardcorenas": ("hardcorenas_b", {}),
    "hgnet": ("hgnetv2_b0", {}),
    "hiera": ("hiera_tiny_224", {"embed_dim": 48}),
    "hieradet_sam2": ("sam2_hiera_tiny", {"embed_dim": 48, "num_heads": 1}),
    "hrnet": ("hrnet_w18_small", {}),
    "iformer": ("iformer_t", {}),
    "inception_next": ("inception_next_atto", {}),
    "inception_resnet_v2": ("inception_resnet_v2", {}),
    "inception_v3": ("inception_v3", {}),
    "inception_v4": ("inception_v4", {}),
    "lcnetv2": ("lcnetv2_small", {}),
    "levit": ("levit_128s", {}),
    "lowformer": ("lowformer_b0", {}),
    "mambaout": ("test_mambaout", {}),
    "maxxvit": ("test_coatnet", {}),
    "metaformer": ("poolformerv2_s12", {}),
    "mlp_mixer": ("mixer_s32_224", {}),
    "mobilenetv3": ("mobilenetv3_small_050", {}),
    "mobilenetv5": ("mobilenetv5_base", {"channel_multiplier": 0.25}),
    "mobilevit": ("mobilevit_xxs", {}),
    "mvitv2": ("mvitv2_tiny", {}),
    "naflexvit": ("naflexvit_base_patch16_gap", {"depth": 2, "embed_dim": 48, "num_heads": 3}),
    "nasnet": ("nasnetalarge", {}),
    "nest": ("nest_tiny", _sized(64)),
    "nextvit": ("nextvit_small", {}),
    "nfnet": ("test_nfnet", {}),
    "pit": ("pit_ti_224", _sized(64)),
    "pnasnet": ("pnasnet5large", {}),
    "pvt_v2": ("pvt_v2_b0", {}),
    "rdnet": ("rdnet_tiny", {"num_blocks_list": [1] * 7}),
    "regnet": ("regnetx_002", {}),
    "repghost": ("repghostnet_050", {}),
    "repvit": ("repvit_m1", {}),
    "res2net": ("res2next50", {}),
    "resnest": ("resnest14d", {}),
    "resnet": ("test_resnet", {}),
    "resnetv2": ("resnetv2_18", {}),
    "rexnet": ("rexnet_100", {}),
    "selecsls": ("selecsls42", {}),
    "senet": ("legacy_seresnet18", {}),
    "sequencer": ("sequencer2d_s", {"layers": (1, 1, 1, 1)}),
    "shvit": ("shvit_s1", {}),
    "sknet": ("skresnet18", {}),
    "starnet": ("starnet_s050", {}),
    "swiftformer": ("swiftformer_xs", {}),
    "swin_transformer": ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "embed_dim": 24}),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", {"depths": (1, 1, 1, 1), "embed_dim": 24}),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", {"depths": (1, 1, 1, 1), "embed_dim": 24}),
    "tiny_vit": ("tiny_vit_5m_224", {"depths": (1, 1, 1, 1)}),
    "tnt": ("tnt_s_patch16_224", _sized(64, depth=3)),
    "tresnet": ("tresnet_m", {"layers": (1, 1, 1, 1)}),
    "twins": ("twins_svt_small", {"depths": (1, 1, 1, 1)}),
    "vgg": ("vgg11", {"mlp_ratio": 0.01}),
    "vision_transformer": ("test_vit", {}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", {"depth": 2}),
    "vision_transformer_relpos": ("test_vit_relpos", {}),
    "vision_transformer_sam": ("samvit_base_patch16_224", _sized(64, depth=2, embed_dim=48, num_heads=3)),
    "visformer": ("visformer_tiny", _sized(64)),
    "vitamin": ("vitamin_small_224", {}),
    "volo": ("volo_d1_224", _sized(64)),
    "vovnet": ("ese_vovnet19b_slim_dw", {}),
    "xception": ("legacy_xception", {}),
    "xception_aligned": ("xception41", {}),
    "xcit": ("xcit_nano_12_p16_224", {"depth": 3}),
}
"""(name, options) by the module of timm that defines the family."""

HEADLESS = ("deepseek_vit", "gemma4_vit", "qwen3_vit")
"""Families whose models all come without a head."""


def small_network(family: str, classes: int = 7) -> torch.nn.Module:
    """A network of a family, in evaluation mode, whose random numbers leave nothing at a special value.

    Weights of norms and of small scales, which begin at one and zero, are random.
    """
    name, options = FAMILIES[family]
    torch.manual_seed(0)
    model: torch.nn.Module = loading.build(name, classes=classes, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() <= 1 or not bool(parameter.any()):
                # A common value near one for scales, near zero for the rest.
                centre = 1.0 if parameter.dim() <= 1 and float(parameter.float().mean()) > 0.5 else 0.0
                parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def random_backbone(model: torch.nn.Module, name: str) -> Backbone:
    """A backbone around a network that has no file."""
    info = dataclasses.replace(find_backbone("resnet50.a1_in1k"), name=name, architecture=name)
    return Backbone(model, info)
