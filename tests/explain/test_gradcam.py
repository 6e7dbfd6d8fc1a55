"Grad-CAM agrees with an independent implementation for every architecture of the registry, and leaves the model unchanged"
import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from har_fastai.data.tables import read_har
from har_fastai.explain.gradcam import GradCAM
from har_fastai.images import preprocess, open_image
from har_fastai.models import ARCHS, create_model
from helpers import DATA

SIZES = dict(baseline=128, inception_v3=149, vit_b_16=224) # size of the images; 96 px for the others, to save time


@pytest.fixture(scope='module')
def files(drawn): return list(read_har(DATA or drawn).path[:16])


def active_network(arch:str, x:torch.Tensor) -> nn.Module:
    "A network with random weights whose outputs neither vanish nor explode: the inputs of batch norm and linear layers are of size 1"
    torch.manual_seed(0)
    model = create_model(arch, 15)
    for m in model.modules():
        if isinstance(m, nn.Conv2d): nn.init.kaiming_normal_(m.weight, nonlinearity='relu')
        if isinstance(m, nn.BatchNorm2d): m.reset_running_stats(); m.momentum = None
    with torch.no_grad(): model.train()(x) # batch norm takes the statistics of these images
    return model.eval()


def batch(files, size): return torch.from_numpy(np.stack([preprocess(open_image(f), size) for f in files]))
def difference(a, b): return ((a - b).abs().max() / b.abs().max()).item()


def n_hooks(model):
    return sum(len(m._forward_hooks) + len(m._backward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize('arch', [a for a in ARCHS if a != 'vit_b_16']) # captum treats the tokens of a transformer as channels
def test_maps_agree_with_captum(arch, files):
    x = batch(files, SIZES.get(arch, 96)); model, layer = active_network(arch, x), ARCHS[arch].target_layer
    model = model.double() # in float32, rounding moves values across the kinks of ReLU6
    x, classes, own = x[:4].double(), torch.tensor([0, 3, 7, 14]), n_hooks(model)
    want = LayerGradCam(model, model.get_submodule(layer)).attribute(x, classes)[:, 0].detach()
    assert 1e-6 < want.abs().max() < 1e6 and want.abs().flatten(1).amax(1).min() > 0, 'the maps vanish or explode'
    with GradCAM(model, layer, bs=3) as cam: got, cut = cam(x, classes, relu=False), cam(x, classes)
    assert got.shape == want.shape and difference(got, want) <= 1e-4
    assert torch.equal(cut, got.relu()) and n_hooks(model) == own
    assert difference(got.roll(1, 0), want) > 1e-3, 'the comparison would not find a mistake'


def test_maps_of_a_transformer(files):
    "Comparison with a plain implementation: the output of the layer times its mean gradient, patch by patch"
    torch.manual_seed(0)
    x, model, layer = batch(files[:2], 224), create_model('vit_b_16', 15).eval(), ARCHS['vit_b_16'].target_layer
    nn.init.normal_(model.heads.head.weight) # torchvision initialises it with zeros, and every map would be zero
    keep = []; hook = model.get_submodule(layer).register_forward_hook(lambda m, i, o: (o.retain_grad(), keep.append(o))[0])
    model(x)[range(2), [3, 7]].sum().backward(); hook.remove()
    a, g = keep[0].detach()[:, 1:].reshape(2, 14, 14, -1), keep[0].grad[:, 1:].reshape(2, 14, 14, -1)
    want = torch.einsum('nijc,nc->nij', a, g.mean((1, 2)))
    with GradCAM(model, layer) as cam: got = cam(x, [3, 7], relu=False)
    assert want.abs().max() > 0 and got.shape == (2, 14, 14) and difference(got, want) <= 1e-5


@pytest.mark.parametrize('layer', ['features.28', 'features.29', 'features.30'])
def test_layers_around_an_in_place_relu(layer, files):
    "VGG16's last convolution, the ReLU that changes its output in place, and the pooling after it"
    x = batch(files[:4], 96); model = active_network('vgg16', x)
    want = LayerGradCam(model, model.get_submodule(layer)).attribute(x, 2)[:, 0].detach()
    with GradCAM(model, layer) as cam: got = cam(x, 2, relu=False)
    assert want.abs().max() > 0 and difference(got, want) <= 1e-5


@pytest.mark.parametrize('arch', ['vgg16', 'resnet50'])
def test_frozen_models_and_inference_mode(arch, files):
    x = batch(files[:2], 64); model, layer = active_network(arch, batch(files, 64)), ARCHS[arch].target_layer
    with GradCAM(model, layer) as cam: want = cam(x, 1)
    model.requires_grad_(False)
    with GradCAM(model, layer) as cam: assert torch.equal(cam(x, 1), want)
    with torch.inference_mode():
        created = create_model(arch, 15); created.load_state_dict(model.state_dict()); created.eval()
        with GradCAM(created, layer) as cam: assert difference(cam(x.clone(), 1), want) < 1e-5
    assert next(created.parameters()).is_inference() and n_hooks(created) == 0 and all(p.grad is None for p in model.parameters())
