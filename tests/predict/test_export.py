"Exported models predict as the predictor does, whatever the architecture; a failed export leaves no file"
import json, subprocess, sys, zipfile
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

import har_fastai.predict.export as export
from har_fastai import cli
from har_fastai.drawing.dataset import DRAWN_ACTIONS, draw_action
from har_fastai.files import HARError
from har_fastai.images import find_images
from har_fastai.models import ARCHS, find_arch
from har_fastai.predict.bundle import load_bundle
from har_fastai.predict.export import TOLERANCE, export_onnx, export_pt2, largest_difference
from har_fastai.predict.onnx import OnnxPredictor
from har_fastai.predict.predictor import Predictor
from helpers import call, mostly_slow, random_run

IMAGES = [draw_action(l, np.random.default_rng(i), 64) for i, l in enumerate(list(DRAWN_ACTIONS)[:6])]
FIELDS = ('arch', 'vocab', 'size', 'mean', 'std', 'resize', 'temperature', 'tta', 'sha256')


@pytest.fixture(scope='module')
def tta(tmp_path_factory):
    "A model with a temperature and test-time augmentation"
    return random_run(tmp_path_factory.mktemp('tta')/'run', IMAGES, temperature=.7, tta=True)


@pytest.fixture(scope='module')
def exported(tta, tmp_path_factory):
    "The model as two exported files; tests copy them before they change them"
    to = tmp_path_factory.mktemp('exported')
    return SimpleNamespace(onnx=export_onnx(tta, to/'m.onnx'), pt2=export_pt2(tta, to/'m.pt2'))


# ---- equal predictions ----

@pytest.mark.parametrize('arch', mostly_slow([*ARCHS, 'resnet10t'], {'baseline', 'resnet10t'}, 'large architectures'))
def test_every_architecture(arch, tmp_path):
    "Both formats, one image and several, against the predictor; temperature and horizontal flips are part of the file"
    if arch == 'resnet10t': pytest.importorskip('timm')
    a = find_arch(arch)
    run = random_run(tmp_path/'run', IMAGES, arch, a.size if a.fixed else max(64, a.min_size), temperature=1.5, tta=True)
    predictor = Predictor(run, half=False)
    want = predictor.probs(IMAGES)
    assert want.std(0).max() > .03, 'the predictions are nearly equal for all images, so the comparison would not find a difference'
    exported = OnnxPredictor(export_onnx(run, tmp_path/'m.onnx'), threads=1)
    assert np.abs(exported.probs(IMAGES) - want).max() < 1e-4
    x = np.stack([exported.array(f) for f in IMAGES])
    z = predictor.logits(x).numpy()
    assert np.abs(exported.logits(x) - z).max() < 3e-4 * max(1, np.abs(z).max()) # the last digits of a deep network depend on the CPU
    (tmp_path/'m.onnx').unlink() # half a gigabyte for some architectures
    module = torch.export.load(export_pt2(run, tmp_path/'m.pt2')).module()
    with torch.no_grad():
        for n in (1, len(x)): assert np.abs(module(torch.from_numpy(x[:n]))[1].numpy() - want[:n]).max() < 1e-4
    (tmp_path/'m.pt2').unlink(); (run/'model.safetensors').unlink()


def test_the_comparison_finds_a_wrong_export(tta, tmp_path, monkeypatch):
    "A file without the temperature is not kept"
    class NoTemperature(export.InferenceModule):
        def __init__(self, model, temperature, tta): super().__init__(model, 1., tta)
    monkeypatch.setattr(export, 'InferenceModule', NoTemperature)
    for f, name in ((export_onnx, 'm.onnx'), (export_pt2, 'm.pt2')):
        with pytest.raises(HARError, match='was not kept'): f(tta, tmp_path/name)
    assert list(tmp_path.iterdir()) == []


def test_the_reader_needs_no_torch(tta, exported, drawn):
    "In a process in which neither PyTorch nor fastai can be imported"
    images = [str(f) for f in find_images(drawn/'test')]
    code = ('import sys, json\nfor m in ("torch", "fastai", "torchvision", "pandas", "onnx"): sys.modules[m] = None\n'
            f'from har_fastai.predict.onnx import OnnxPredictor\np = OnnxPredictor({str(exported.onnx)!r})\n'
            f'print(json.dumps(p.probs({images!r}).tolist()))')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.abs(np.array(json.loads(done.stdout)) - Predictor(tta, half=False).probs(images)).max() < 1e-4


def test_har_predict_with_a_file(tta, exported, drawn, refuse):
    "The predictions are those of the run, in a process without PyTorch; a GPU is refused"
    argv = [str(drawn/'test'), '--top', '15', '--json', '-', '--model']
    code = ('import sys\nfor m in ("torch", "fastai", "torchvision"): sys.modules[m] = None\n'
            f'from har_fastai.cli import har_predict\nhar_predict({[*argv, str(exported.onnx)]!r})')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    got, want = ([json.loads(l) for l in out.splitlines()] for out in (done.stdout, call('har_predict', *argv, tta).stdout))
    assert len(got) == len(want) > 1
    for a, b in zip(got, want):
        assert (a['path'], a['label']) == (b['path'], b['label'])
        assert a['probabilities'] == pytest.approx(b['probabilities'], abs=.02) # the run predicts in half precision
    code, message = refuse(cli.har_predict, drawn/'test', '--model', exported.onnx, '--device', 'cuda')
    assert code == 2 and 'on the CPU' in message


# ---- files ----

def test_the_file_describes_itself(tta, exported):
    model = onnx.load(exported.onnx)
    onnx.checker.check_model(model)
    props, card = {p.key: p.value for p in model.metadata_props}, load_bundle(tta)[1]
    inside = json.loads(props['card'])
    assert {k: inside[k] for k in FIELDS} == {k: getattr(card, k) for k in FIELDS}
    assert props['sha256'] == card.sha256 and props['har_fastai'] and '64 x 64' in props['preprocessing'] and 'flip' in props['outputs']
    i, = model.graph.input; dims = i.type.tensor_type.shape.dim
    assert dims[0].dim_param and [d.dim_value for d in dims[1:]] == [3, 64, 64]
    assert [o.name for o in model.graph.output] == ['logits', 'probs']
    extra = dict.fromkeys(props, '')
    torch.export.load(exported.pt2, extra_files=extra)
    assert extra == props


def test_a_file_of_an_earlier_version_is_read(exported, tmp_path):
    "Its graph names the input 'pictures'"
    old = onnx.load(exported.onnx)
    for node in old.graph.node: node.input[:] = ['pictures' if i == 'images' else i for i in node.input]
    old.graph.input[0].name = 'pictures'; onnx.save(old, tmp_path/'old.onnx')
    assert np.array_equal(OnnxPredictor(tmp_path/'old.onnx').probs(IMAGES), OnnxPredictor(exported.onnx).probs(IMAGES))


def test_no_batch_norm_is_left(exported):
    assert not any(n.op_type == 'BatchNormalization' for n in onnx.load(exported.onnx).graph.node)


def test_a_full_disk_leaves_nothing(tta, tmp_path, monkeypatch):
    def full(fd): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError): export_onnx(tta, tmp_path/'m.onnx')
    assert list(tmp_path.iterdir()) == []


DAMAGE = {'cut short': lambda d: d[:-2000], 'empty': lambda d: b'', 'pickle': lambda d: b'\x80\x04.' * 9}


@pytest.mark.parametrize('kind', DAMAGE)
def test_damaged_files_are_refused(exported, tmp_path, kind):
    file = tmp_path/'m.onnx'; file.write_bytes(DAMAGE[kind](exported.onnx.read_bytes()))
    with pytest.raises(HARError, match='cannot be read as an ONNX model'): OnnxPredictor(file)


def other_onnx(file, **props):
    "A valid ONNX model that har_export did not write"
    from onnx import TensorProto, helper
    x, y, z = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ['n', 3, 64, 64]) for n in ('images', 'logits', 'probs'))
    nodes = [helper.make_node('Identity', ['images'], [o]) for o in ('logits', 'probs')]
    graph = helper.make_graph(nodes, 'g', [x], [y, z])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=10)
    for k, v in props.items(): model.metadata_props.add(key=k, value=v)
    file.write_bytes(model.SerializeToString())
    return file


def test_foreign_files_are_refused(tmp_path):
    card = dict(vocab=['running', 'sitting', 'texting'], size=64, mean=[.5] * 3, std=[.5] * 3, resize='squash')
    for props, words in ((dict(), 'not written by har_export'), (dict(card='{}'), 'is damaged'),
                         (dict(card=json.dumps(card)), 'does not fit its description')):
        with pytest.raises(HARError, match=words): OnnxPredictor(other_onnx(tmp_path/'f.onnx', **props))


# ---- the command ----

def test_the_command(tta, tmp_path):
    out = ''
    for form in ('onnx', 'pt2'): out += call('har_export', tta, '--format', form, '--out', tmp_path/'new'/f'm.{form}').stdout
    assert all(str(tmp_path/'new'/f) in out for f in ('m.onnx', 'm.pt2')) and zipfile.is_zipfile(tmp_path/'new'/'m.pt2')
    assert sorted(f.name for f in (tmp_path/'new').iterdir()) == ['m.onnx', 'm.pt2']


@pytest.mark.parametrize('argv, words', [
    (['--format', 'pickle', '--out', 'm'], 'must be onnx or pt2'), (['--format', 'onnx', '--out', 'here.onnx'], 'here.onnx exists'),
    (['--format', 'pt2', '--out', 'here.onnx'], 'here.onnx exists')])
def test_the_command_refuses(tta, tmp_path, refuse, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path); (tmp_path/'here.onnx').write_text('mine')
    code, message = refuse(cli.har_export, tta, *argv)
    assert code == 2 and words in message and (tmp_path/'here.onnx').read_text() == 'mine' and len(list(tmp_path.iterdir())) == 1


def test_no_model(tmp_path, refuse):
    code, message = refuse(cli.har_export, tmp_path/'nowhere', '--format', 'onnx', '--out', tmp_path/'m.onnx')
    assert code == 2 and 'does not exist' in message


@pytest.mark.parametrize('missing', ['onnx', 'onnxscript', 'onnxruntime'])
def test_a_missing_package_is_named(tta, tmp_path, refuse, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    code, message = refuse(cli.har_export, tta, '--format', 'onnx', '--out', tmp_path/'m.onnx')
    assert code == 2 and missing in message and 'pip install "har_fastai[onnx]"' in message and not (tmp_path/'m.onnx').exists()


def test_reading_without_onnxruntime(monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(HARError, match=r'pip install "har_fastai\[onnx\]"'): OnnxPredictor(b'')


def test_a_network_without_a_fixed_graph_is_refused(tta, tmp_path, monkeypatch, capfd):
    class Branching(torch.nn.Module):
        def forward(self, x): return x.mean((2, 3)) if x.sum() > 0 else -x.mean((2, 3))
    class Odd(Predictor):
        def __init__(self, *args, **kw): super().__init__(*args, **kw); self.model = Branching()
    monkeypatch.setattr(export, 'Predictor', Odd)
    for f in (export_onnx, export_pt2):
        with pytest.raises(HARError, match='cannot be exported, because its computation is not a fixed graph'): f(tta, tmp_path/'m')
    assert capfd.readouterr() == ('', ''), 'PyTorch printed text'
    assert list(tmp_path.iterdir()) == []
    assert largest_difference(Predictor(tta, half=False), lambda x: [np.zeros((len(x), 3))] * 2) > TOLERANCE
