"""Every command that the READMEs of version 0.1 name still runs."""

import runpy
import sys
import warnings

import pytest

RECIPES = """
    CNN.AlexNet CNN.ConvNeXt CNN.DenseNet CNN.EfficientNet CNN.GoogLeNet CNN.LeNet CNN.MobileNetV2 CNN.NiN CNN.PreActResNet
    CNN.ResNeXt CNN.ResNet CNN.SqueezeNet CNN.VGG CNN.WideResNet DataMining.ImageSearch DataMining.OpenSet Diffusion.DDPM
    Diffusion.DiT Diffusion.FlowMatching GPT.GPT2 GPT.Llama Generative.DCGAN Generative.VAE Linear.LinearRegression
    Linear.SoftmaxRegression MLP.MLP RNN.BahdanauAttention RNN.GRU RNN.LSTM RNN.RNN RNN.Seq2Seq RNN.TextCNN RNN.Word2Vec
    Transformers.BERT Transformers.Transformer Transformers.ViT
"""
OTHERS = """
    benchmarks.autograd benchmarks.bert benchmarks.bpe benchmarks.diffusion benchmarks.gpt benchmarks.layers
    benchmarks.optimizers benchmarks.resnet benchmarks.search benchmarks.trainer benchmarks.tsne modules.CNN.ResNet.predict
    modules.DataMining.ImageSearch.app modules.DataMining.ImageSearch.evaluate modules.DataMining.ImageSearch.index
    modules.DataMining.ImageSearch.search modules.DataMining.OpenSet.evaluate modules.DataMining.TSNE.draw
    modules.Diffusion.DDPM.sample modules.Diffusion.score modules.GPT.BPE.prepare modules.GPT.GPT2.generate
    modules.GPT.Llama.generate modules.GPT.Llama.stories modules.Generative.sample modules.Generative.score
    modules.RNN.Word2Vec.neighbours modules.RNN.generate modules.RNN.translate modules.Transformers.BERT.finetune
    modules.Transformers.Transformer.translate mytorch.data.tar
"""
FRONT = "list train test summary kernels features results doctor"
MODULES = [*(f"modules.{name}.train" for name in RECIPES.split()), *OTHERS.split()]


@pytest.mark.parametrize("module", [pytest.param(m, marks=pytest.mark.slow) if "benchmarks" in m else m for m in MODULES])
def test_a_module_of_version_0_1_has_help(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy's, of what is imported already
        runpy.run_module(f"dl.{module}", run_name="__main__", alter_sys=True)
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize("command", FRONT.split())
def test_a_command_of_version_0_1_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from dl import __main__ as front

    with pytest.raises(SystemExit) as ended:
        front.main([command, "--help"])
    assert ended.value.code == 0 and f"usage: python -m dl {command}" in capsys.readouterr().out
