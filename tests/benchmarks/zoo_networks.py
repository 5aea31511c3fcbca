"""The zoo's networks: those of four packages, with random weights and small inputs.

A network is named by its package and its name there, as ``timm:resnet10t``. Weights are such that
no channel is dead: a cut that removes the wrong one changes the output.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SIDE = 64
"""Height and width of the images, where a network does not need more."""
CLASSES = 10
TOKENS, WORDS = 16, 200

_TORCHVISION = """
    alexnet convnext_tiny densenet121 densenet169 efficientnet_b0 efficientnet_b2
    efficientnet_v2_s googlenet inception_v3@96 mnasnet0_5 mnasnet1_0 mobilenet_v2
    mobilenet_v3_small mobilenet_v3_large regnet_x_400mf regnet_x_1_6gf regnet_y_400mf
    regnet_y_1_6gf resnet18 resnet34 resnet50 resnet101 resnext50_32x4d shufflenet_v2_x0_5
    shufflenet_v2_x1_0 squeezenet1_0 squeezenet1_1 swin_t swin_v2_t vgg11 vgg13_bn vgg16
    vit_b_16 vit_b_32 wide_resnet50_2 maxvit_t fcn_resnet50 deeplabv3_mobilenet_v3_large
    lraspp_mobilenet_v3_large
"""
_TIMM = """
    resnet10t resnet26d resnext26ts seresnet33ts seresnext26d_32x4d ecaresnet26t rexnet_100
    ghostnet_100 ghostnetv2_100 hrnet_w18_small dla34 dla46x_c ese_vovnet19b_slim
    ese_vovnet19b_dw convnext_atto convnextv2_atto efficientnet_lite0 tf_efficientnetv2_b0
    mixnet_s mobilenetv3_small_050 mobilenetv4_conv_small hardcorenas_a semnasnet_075 fbnetc_100
    tinynet_e regnetx_002 regnety_002 regnetz_005 nf_regnet_b0 nf_resnet26 dm_nfnet_f0
    res2net50_14w_8s resnest14d skresnet18 cspresnet50 cspdarknet53 darknet17 densenet121
    inception_v3@96 inception_v4@96 inception_resnet_v2@96 xception41 dpn48b vgg11_bn gernet_s
    lcnet_050 inception_next_atto starnet_s1 gcresnet33ts lambda_resnet26t botnet26t_256
    selecsls42b tresnet_m vit_tiny_patch16_224 deit_tiny_distilled_patch16_224
    deit3_small_patch16_224 cait_xxs24_224 xcit_nano_12_p16_224 beit_base_patch16_224
    eva02_tiny_patch14_224@56 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256
    twins_pcpvt_small twins_svt_small pvt_v2_b0 coat_lite_tiny levit_128s mobilevit_xxs
    mobilevitv2_050 maxvit_rmlp_pico_rw_256 coatnet_nano_rw_224 edgenext_xx_small poolformer_s12
    caformer_s18 mixer_s32_224 resmlp_12_224 gmlp_ti16_224 convmixer_768_32
    efficientformer_l1@224 efficientformerv2_s0@224 efficientvit_b0 efficientvit_m0 fastvit_t8
    repvgg_a0 repvit_m0_9 mobileone_s0 volo_d1_224 focalnet_tiny_srf davit_tiny
    hiera_tiny_224@224 crossvit_9_240@240 tnt_s_patch16_224 nest_tiny_jx pit_ti_224@224
    convit_tiny visformer_tiny sequencer2d_s
"""
_PYTORCHCV = """
    alexnet@224 zfnet@224 resnet10 preresnet10 resnetbc14b seresnet10 sepreresnet10 bam_resnet18
    cbam_resnet18 ibn_resnet50 airnet50_1x64d_r2 bagnet9 diaresnet10 diapreresnet10 diracnet18v2
    pyramidnet110_a48_cifar10@32 wrn16_10_cifar10@32 ror3_56_cifar10@32
    shakeshakeresnet20_2x16d_cifar10@32 resattnet56 fishnet99 drnc26 dpn68@224 darknet_tiny
    darknet19 squeezenet_v1_1 squeezeresnet_v1_1 sqnxt23_w1 shufflenet_g3_wd4 shufflenetv2_wd2
    shufflenetv2b_wd2 menet108_8x1_g3 mobilenet_wd4 fdmobilenet_wd4 mobilenetv2_wd4
    mobilenetv3_small_wd2 igcv3_wd4 mnasnet_small ghostnet darts nasnet_4a1056@96
    pnasnet5large@96 spnasnet proxylessnas_mobile fbnet_cb efficientnet_b0@224 mixnet_s
    inceptionv3@96 bninception xception@96 polynet@96 peleenet densenet121
    densenet40_k12_cifar10@32 xdensenet40_2_k24_bc_cifar10@32 sparsenet121 condensenet74_c4_g4
    hardnet39ds vovnet27s selecsls42 dla46xc hrnet_w18_small_v1 channelnet dicenet_wd5
    espnetv2_wd2 regnetx002 regnety002 resnesta18 scnet50@128 sknet50 octresnet10_ad2 revnet38
    irevnet301 sharesnet18 isqrtcovresnet18 tresnet_m bisenet_resnet18_celebamaskhq
    fastscnn_cityscapes@128 nin_cifar10@32 rir_cifar10@32 fractalnet_cifar10@32
    linknet_cityscapes enet_cityscapes
"""


def names() -> list[str]:
    """Return the names of all networks whose package is installed."""
    listed = {
        "torchvision": _sides(_TORCHVISION),
        "timm": _sides(_TIMM),
        "pytorchcv": _sides(_PYTORCHCV),
        "transformers": _TRANSFORMERS,
    }
    installed = [package for package in listed if importlib.util.find_spec(package)]
    return [f"{package}:{name}" for package in installed for name in listed[package]]


def build(name: str, seed: int = 0, *, lively: bool = True) -> nn.Module:
    """Build a network in evaluation mode; if lively, with weights that leave no channel dead."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    package, _, own = name.partition(":")
    model = _BUILDERS[package](own, _side_of(name))
    if lively:
        _enliven(model, torch.cat([example(name) for _ in range(4)]))
    return model.eval()


def example(name: str, side: int | None = None) -> Tensor:
    """Return a random image or random tokens, batch size 1."""
    package, _, own = name.partition(":")
    if package == "transformers" and own in _FRAMES:
        return torch.randn(_FRAMES[own])
    if package == "transformers" and own not in _PICTURES:
        return torch.randint(0, WORDS, (1, TOKENS))
    side = side or _side_of(name)
    return torch.randn(1, 3, side, side)


class OneTensor(nn.Module):
    """A network whose outputs are more than one tensor, or more than a row of logits."""

    def __init__(self, network: nn.Module, pick: str | int | None = None, features: int = 0):
        """Keep the network.

        Args:
            network: Returns a tensor, or a dictionary or tuple of them.
            pick: Key or index of the tensor that is wanted.
            features: If given, the tensor is of so many features by position, and a linear layer
                makes logits of their mean.
        """
        super().__init__()
        self.network, self.pick = network, pick
        self.head = nn.Linear(features, CLASSES) if features else None

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.network(inputs)
        if self.pick is not None:
            outputs = outputs[self.pick]
        if self.head is not None:
            return self.head(outputs.mean(1))
        # Logits of each pixel are averaged; of each token, the last are taken.
        if outputs.ndim == 4:
            return outputs.mean((2, 3))
        return outputs[:, -1] if outputs.ndim == 3 else outputs


def _sides(listed: str) -> dict[str, int]:
    split = (entry.partition("@") for entry in listed.split())
    return {name: int(side or SIDE) for name, _, side in split}


def _side_of(name: str) -> int:
    package, _, own = name.partition(":")
    listed = {"torchvision": _TORCHVISION, "timm": _TIMM, "pytorchcv": _PYTORCHCV}
    return _sides(listed.get(package, "")).get(own, SIDE)


def _torchvision(name: str, side: int) -> nn.Module:
    models = importlib.import_module("torchvision.models")
    if name == "maxvit_t":  # the named one takes 224 pixels only
        channels, layers = [64, 128, 256, 512], [2, 2, 5, 2]
        size, window = (side, side), side // 32
        return models.maxvit.MaxVit(
            size, 64, window, channels, layers, 32, 0.0, num_classes=CLASSES
        )
    options: dict[str, Any] = {"image_size": side} if name.startswith("vit_") else {}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    if hasattr(models, name):
        return getattr(models, name)(weights=None, num_classes=CLASSES, **options)
    make = getattr(models.segmentation, name)
    return OneTensor(make(weights=None, weights_backbone=None, num_classes=CLASSES), "out")


def _timm(name: str, side: int) -> nn.Module:
    create = importlib.import_module("timm").create_model
    try:
        return create(name, num_classes=CLASSES, img_size=side)
    except TypeError:  # takes images of any size
        return create(name, num_classes=CLASSES)


def _pytorchcv(name: str, side: int) -> nn.Module:
    make = importlib.import_module("pytorchcv.model_provider").get_model
    options: dict[str, Any] = {"num_classes": CLASSES, "in_size": (side, side)}
    if "cityscapes" in name or "celeba" in name:
        return OneTensor(make(name, aux=False, **options))
    model = make(name, num_classes=CLASSES) if "nasnet" in name else make(name, **options)
    for path, layer in list(model.named_modules()):
        # The last pooling is of 7 x 7 positions or more, which small images do not have.
        if "final" in path and isinstance(layer, nn.AvgPool2d):
            owner, _, own = path.rpartition(".")
            setattr(model.get_submodule(owner), own, nn.AdaptiveAvgPool2d(1))
    return model


def _hugging_face(kind: str, head: str, **options: Any) -> nn.Module:
    library = importlib.import_module("transformers")
    config = getattr(library, f"{kind}Config")(**options)
    config.num_labels, config.use_cache = CLASSES, False
    model = getattr(library, f"{kind}{head}")(config)
    if head.endswith("Model") and "LM" not in head:
        return OneTensor(model, "last_hidden_state", features=config.hidden_size)
    return OneTensor(model, "logits")


_SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_WIDE = _SMALL | {"intermediate_size": 128}
_BERT = _WIDE | {"vocab_size": WORDS, "max_position_embeddings": 64}
_LLAMA = _BERT | {"num_key_value_heads": 2}
_VIT = _WIDE | {"image_size": SIDE, "patch_size": 16}
_STAGES = {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 48, 64]}

_TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("Bert", "ForSequenceClassification", _BERT),
    "distilbert": (
        "DistilBert",
        "ForSequenceClassification",
        {"vocab_size": WORDS, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    ),
    "roberta": ("Roberta", "ForSequenceClassification", _BERT),
    "albert": ("Albert", "ForSequenceClassification", _BERT | {"embedding_size": 32}),
    "electra": ("Electra", "ForSequenceClassification", _BERT | {"embedding_size": 32}),
    "mobilebert": (
        "MobileBert",
        "ForSequenceClassification",
        _BERT | {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    ),
    "deberta-v2": ("DebertaV2", "ForSequenceClassification", _BERT),
    "squeezebert": ("SqueezeBert", "ForSequenceClassification", _BERT | {"embedding_size": 64}),
    "mpnet": ("MPNet", "ForSequenceClassification", _BERT),
    "t5": (
        "T5",
        "EncoderModel",
        {"vocab_size": WORDS, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2}
        | {"num_heads": 4},
    ),
    "gpt2": (
        "GPT2",
        "LMHeadModel",
        {"vocab_size": WORDS, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4},
    ),
    "gpt_neox": ("GPTNeoX", "ForCausalLM", _BERT),
    "opt": (
        "OPT",
        "ForCausalLM",
        {"vocab_size": WORDS, "hidden_size": 64, "num_hidden_layers": 2, "ffn_dim": 128}
        | {"num_attention_heads": 4, "max_position_embeddings": 64, "word_embed_proj_dim": 64},
    ),
    "llama": ("Llama", "ForCausalLM", _LLAMA),
    "mistral": ("Mistral", "ForCausalLM", _LLAMA),
    "qwen2": ("Qwen2", "ForCausalLM", _LLAMA),
    "gemma": ("Gemma", "ForCausalLM", _LLAMA | {"head_dim": 16}),
    "phi": ("Phi", "ForCausalLM", _BERT),
    "vit": ("ViT", "ForImageClassification", _VIT),
    "deit": ("DeiT", "ForImageClassification", _VIT),
    "swin": (
        "Swin",
        "ForImageClassification",
        {"image_size": SIDE, "embed_dim": 32, "depths": [1, 2], "num_heads": [2, 4]}
        | {"window_size": 4},
    ),
    "convnext": ("ConvNext", "ForImageClassification", _STAGES),
    "resnet": (
        "ResNet",
        "ForImageClassification",
        _STAGES | {"embedding_size": 16, "depths": [1, 1, 1, 1]},
    ),
    "clip-vision": ("CLIPVision", "Model", _VIT),
    "segformer": (
        "Segformer",
        "ForImageClassification",
        {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32},
    ),
    "wav2vec2": (
        "Wav2Vec2",
        "ForSequenceClassification",
        _WIDE
        | {"conv_dim": [32] * 3, "conv_stride": [5, 4, 4], "conv_kernel": [10, 8, 4]}
        | {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
        | {"classifier_proj_size": 32},
    ),
    "whisper-encoder": (
        "Whisper",
        "Encoder",
        {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128}
        | {"num_mel_bins": 16, "max_source_positions": 32},
    ),
}
"""By name the family, the head, and a small configuration."""
_FRAMES = {"wav2vec2": (1, 2000), "whisper-encoder": (1, 16, 64)}
"""Shapes of inputs that are sounds."""
_PICTURES = ("vit", "deit", "swin", "convnext", "resnet", "clip-vision", "segformer")


def _transformers(name: str, _side: int) -> nn.Module:
    kind, head, options = _TRANSFORMERS[name]
    if kind == "Whisper":
        library = importlib.import_module("transformers.models.whisper.modeling_whisper")
        config = importlib.import_module("transformers").WhisperConfig(**options)
        return OneTensor(library.WhisperEncoder(config), "last_hidden_state", config.d_model)
    return _hugging_face(kind, head, **options)


_BUILDERS: dict[str, Callable[[str, int], nn.Module]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "pytorchcv": _pytorchcv,
    "transformers": _transformers,
}


def _enliven(model: nn.Module, inputs: Tensor) -> None:
    """Give vectors that start at zero, one or next to it values of their own, and norms statistics.

    Scales of 1e-6, and last norms of a block that start at zero, hide what is cut before them.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.numel() == max(parameter.shape, default=1) > 1:
                if name.endswith("bias"):
                    parameter.normal_(std=0.1)
                else:
                    parameter.uniform_(0.5, 1.5)
            elif not parameter.abs().max() > 1e-3:
                parameter.normal_(std=0.02)
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        model(inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.running_var is not None:
                norm.running_var.clamp_(min=1e-2)
