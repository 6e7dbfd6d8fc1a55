"Exported models answer as the predictor does, whatever the architecture; what can't be exported leaves no file"
import json, subprocess, sys, zipfile

import numpy as np
import onnx
import pytest
import torch

from har_fastai import cli
from har_fastai.predict.export import TOLERANCE, export_onnx, export_pt2, largest_difference
from har_fastai.files import HARError
from har_fastai.images import find_images
from har_fastai.predict.bundle import load_bundle
from har_fastai.predict.predictor import Predictor
from har_fastai.models import ARCHS, find_arch
from har_fastai.predict.onnx import OnnxPredictor
from har_fastai.drawing.dataset import SCENES, draw_action
from helpers import random_run

IMAGES = [draw_action(l, np.random.default_rng(i), 64) for i, l in enumerate(list(SCENES)[:6])]


@pytest.fixture(scope='module')
def tta(tmp_path_factory): return random_run(tmp_path_factory.mktemp('tta')/'run', IMAGES, temperature=.7, tta=True)


@pytest.mark.parametrize('arch', [*ARCHS, 'resnet10t'])
def test_every_architecture(arch, tmp_path):
    "Both forms, one image and several, against the predictor; the temperature and horizontal flips are part of the file"
    if arch == 'resnet10t': pytest.importorskip('timm')
    a = find_arch(arch)
    run = random_run(tmp_path/'run', IMAGES, arch, a.size if a.fixed else max(64, a.min_size), temperature=1.5, tta=True)
    torch_one = Predictor(run, half=False)
    want = torch_one.probs(IMAGES)
    assert want.std(0).max() > .03, 'all images have the same answer: the comparison would prove little'
    onnx_one = OnnxPredictor(export_onnx(run, tmp_path/'m.onnx'), threads=1)
    assert np.abs(onnx_one.probs(IMAGES) - want).max() < 1e-4
    x = np.stack([onnx_one.array(f) for f in IMAGES])
    z = torch_one.logits(x).numpy()
    assert np.abs(onnx_one.logits(x) - z).max() < 3e-4 * max(1, np.abs(z).max()) # a deep network's last digits depend on the processor
    (tmp_path/'m.onnx').unlink() # some are half a gigabyte
    module = torch.export.load(export_pt2(run, tmp_path/'m.pt2')).module()
    with torch.no_grad(): assert all(np.abs(module(torch.from_numpy(x[:n]))[1].numpy() - want[:n]).max() < 1e-4 for n in (1, len(x)))
    (tmp_path/'m.pt2').unlink(); (run/'model.safetensors').unlink()


def test_the_file_says_what_it_is(tta, tmp_path):
    model = onnx.load(export_onnx(tta, tmp_path/'m.onnx'))
    onnx.checker.check_model(model)
    said, card = {p.key: p.value for p in model.metadata_props}, load_bundle(tta)[1]
    told = json.loads(said['card'])
    assert {k: told[k] for k in ('arch', 'vocab', 'size', 'mean', 'std', 'resize', 'temperature', 'tta', 'sha256')} == {k: getattr(card, k) for k in ('arch', 'vocab', 'size', 'mean', 'std', 'resize', 'temperature', 'tta', 'sha256')}
    assert said['sha256'] == card.sha256 and said['har_fastai'] and '64 x 64' in said['preprocessing'] and 'mirror' in said['outputs']
    i, = model.graph.input; dims = i.type.tensor_type.shape.dim
    assert dims[0].dim_param and [d.dim_value for d in dims[1:]] == [3, 64, 64] and [o.name for o in model.graph.output] == ['logits', 'probs']
    pt2 = export_pt2(tta, tmp_path/'m.pt2'); extra = dict.fromkeys(said, '')
    torch.export.load(pt2, extra_files=extra)
    assert extra == said


def test_no_batch_norm_is_left(tta, tmp_path):
    assert not any(n.op_type == 'BatchNormalization' for n in onnx.load(export_onnx(tta, tmp_path/'m.onnx')).graph.node)


def test_the_comparison_sees_a_wrong_export(tta, tmp_path, monkeypatch):
    "With the temperature left out, the file is not kept"
    import har_fastai.predict.export as ex
    class Forgetful(ex.AnswerModule):
        def __init__(self, model, temperature, tta): super().__init__(model, 1., tta)
    monkeypatch.setattr(ex, 'AnswerModule', Forgetful)
    for f, name in ((export_onnx, 'm.onnx'), (export_pt2, 'm.pt2')):
        with pytest.raises(HARError, match='was not kept'): f(tta, tmp_path/name)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tta, tmp_path, monkeypatch):
    def full(fd): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError): export_onnx(tta, tmp_path/'m.onnx')
    assert list(tmp_path.iterdir()) == []


def test_the_reader_needs_no_torch(tta, tmp_path, drawn):
    "In a process where neither PyTorch nor fastai can be imported"
    file, images = export_onnx(tta, tmp_path/'m.onnx'), [str(f) for f in find_images(drawn/'test')]
    code = ('import sys, json\nfor m in ("torch", "fastai", "torchvision", "pandas", "onnx"): sys.modules[m] = None\n'
            f'from har_fastai.predict.onnx import OnnxPredictor\np = OnnxPredictor({str(file)!r})\nprint(json.dumps(p.probs({images!r}).tolist()))')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.abs(np.array(json.loads(done.stdout)) - Predictor(tta, half=False).probs(images)).max() < 1e-4


@pytest.mark.parametrize('change, told', [(lambda d: d[:-2000], 'cannot be read as an ONNX model'), (lambda d: b'', 'cannot be read as an ONNX model'), (lambda d: b'\x80\x04.' * 9, 'cannot be read as an ONNX model')])
def test_broken_files_are_refused(tta, tmp_path, change, told):
    file = export_onnx(tta, tmp_path/'m.onnx'); file.write_bytes(change(file.read_bytes()))
    with pytest.raises(HARError, match=told): OnnxPredictor(file)


def foreign(file, **props):
    "A sound ONNX model that har_export did not write"
    from onnx import TensorProto, helper
    x, y, z = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ['n', 3, 64, 64]) for n in ('images', 'logits', 'probs'))
    model = helper.make_model(helper.make_graph([helper.make_node('Identity', ['images'], [o]) for o in ('logits', 'probs')], 'g', [x], [y, z]), opset_imports=[helper.make_opsetid('', 17)], ir_version=10)
    for k, v in props.items(): model.metadata_props.add(key=k, value=v)
    file.write_bytes(model.SerializeToString())
    return file


def test_foreign_files_are_refused(tta, tmp_path):
    card = dict(vocab=['running', 'sitting', 'texting'], size=64, mean=[.5] * 3, std=[.5] * 3, resize='squash')
    for props, told in ((dict(), 'not written by har_export'), (dict(card='{}'), 'makes no sense'), (dict(card=json.dumps(card)), 'not what it says')):
        with pytest.raises(HARError, match=told): OnnxPredictor(foreign(tmp_path/'f.onnx', **props))


def test_the_command(tta, tmp_path, capsys):
    cli.har_export([str(tta), '--format', 'onnx', '--out', str(tmp_path/'new'/'m.onnx')])
    cli.har_export([str(tta), '--format', 'pt2', '--out', str(tmp_path/'new'/'m.pt2')])
    out = capsys.readouterr().out
    assert all(str(tmp_path/'new'/f) in out for f in ('m.onnx', 'm.pt2')) and zipfile.is_zipfile(tmp_path/'new'/'m.pt2')
    assert sorted(f.name for f in (tmp_path/'new').iterdir()) == ['m.onnx', 'm.pt2']


@pytest.mark.parametrize('argv, told', [(['--format', 'pickle', '--out', 'm'], 'must be onnx or pt2'), (['--format', 'onnx', '--out', 'here.onnx'], 'here.onnx exists'), (['--format', 'pt2', '--out', 'here.onnx'], 'here.onnx exists')])
def test_the_command_refuses(tta, tmp_path, refuse, monkeypatch, argv, told):
    monkeypatch.chdir(tmp_path); (tmp_path/'here.onnx').write_text('mine')
    code, said = refuse(cli.har_export, tta, *argv)
    assert code == 2 and told in said and (tmp_path/'here.onnx').read_text() == 'mine' and len(list(tmp_path.iterdir())) == 1


def test_predicting_with_a_file(tta, tmp_path, drawn, refuse):
    "har_predict answers from an exported file as from the run, in a process without PyTorch; and refuses a GPU"
    file, answers = export_onnx(tta, tmp_path/'m.onnx'), {}
    for name, model in (('file', file), ('run', tta)):
        code = ('import sys\nfor m in ("torch", "fastai", "torchvision") if sys.argv[1] == "file" else (): sys.modules[m] = None\n'
                f'from har_fastai.cli import har_predict\nhar_predict([{str(drawn/"test")!r}, "--model", {str(model)!r}, "--top", "15", "--json", "-"])')
        done = subprocess.run([sys.executable, '-c', code, name], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        answers[name] = [json.loads(l) for l in done.stdout.splitlines()]
    assert len(answers['file']) == len(answers['run']) > 1
    for a, b in zip(answers['file'], answers['run']): assert a['path'] == b['path'] and a['label'] == b['label'] and a['probabilities'] == pytest.approx(b['probabilities'], abs=.02) # the run answers in 16 bits
    code, said = refuse(cli.har_predict, drawn/'test', '--model', file, '--device', 'cuda')
    assert code == 2 and 'on the processor' in said


def test_no_model(tmp_path, refuse):
    code, said = refuse(cli.har_export, tmp_path/'nowhere', '--format', 'onnx', '--out', tmp_path/'m.onnx')
    assert code == 2 and 'does not exist' in said


@pytest.mark.parametrize('lacking', ['onnx', 'onnxscript', 'onnxruntime'])
def test_a_missing_extra_is_named(tta, tmp_path, refuse, monkeypatch, lacking):
    monkeypatch.setitem(sys.modules, lacking, None)
    code, said = refuse(cli.har_export, tta, '--format', 'onnx', '--out', tmp_path/'m.onnx')
    assert code == 2 and lacking in said and 'pip install "har_fastai[onnx]"' in said and not (tmp_path/'m.onnx').exists()


def test_reading_without_onnxruntime(monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(HARError, match=r'pip install "har_fastai\[onnx\]"'): OnnxPredictor(b'')


def test_what_has_no_fixed_graph_is_refused(tta, tmp_path, monkeypatch, capfd):
    import har_fastai.predict.export as ex
    class Choosy(torch.nn.Module):
        def forward(self, x): return x.mean((2, 3)) if x.sum() > 0 else -x.mean((2, 3))
    class Odd(Predictor):
        def __init__(self, *args, **kw): super().__init__(*args, **kw); self.model = Choosy()
    monkeypatch.setattr(ex, 'Predictor', Odd)
    for f in (export_onnx, export_pt2):
        with pytest.raises(HARError, match='cannot be exported, since its computation is no fixed graph'): f(tta, tmp_path/'m')
    assert capfd.readouterr() == ('', ''), 'PyTorch prints the graph that it could not make'
    assert list(tmp_path.iterdir()) == [] and largest_difference(Predictor(tta, half=False), lambda x: [np.zeros((len(x), 3))] * 2) > TOLERANCE
