"""Speed of prediction with `Predictor`, compared with fastai's `Learner.predict`, plain PyTorch and ONNX Runtime, in one process.

The sides alternate in rounds and their medians are compared, so changes in the speed of the machine affect all of them. The
network is the baseline with random weights, since the speed does not depend on the weights; the images are drawn, or those of
--data. All sides start from the bytes of an image file, except `batches_network`, which starts from arrays. Prints one JSON line;
ratios above 1 mean that `Predictor` is faster. Those of `int8` compare with the exported network in 8-bit integers instead.
"""
from __future__ import annotations
import argparse, contextlib, importlib.util, json, os, subprocess, sys, tempfile, time
from pathlib import Path
from statistics import median
import fastai, numpy as np, torch
from har_fastai.images import IMAGENET_MEAN, IMAGENET_STD, preprocess, find_images, open_image
from har_fastai.predict.bundle import Card, save_bundle
from har_fastai.predict.export import _onnx_model
from har_fastai.predict.onnx import OnnxPredictor
from har_fastai.predict.predictor import Predictor
from har_fastai.predict.quantization import quantize
from har_fastai.data.loaders import HARImage
from har_fastai.drawing.dataset import draw_har
from har_fastai.testing import synth_har_learner

def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', metavar='DIR', help='folder of images (default: drawings)')
    p.add_argument('--size', type=int, default=256, metavar='PX', help="side of the network's input (default: 256)")
    p.add_argument('--n', type=int, default=192, metavar='N', help='images per round in the comparison of batches (default: 192)')
    p.add_argument('--rounds', type=int, default=9, help='rounds (default: 9)')
    p.add_argument('--bs', type=int, default=32, help='batch size of plain PyTorch (default: 32)')
    p.add_argument('--threads', type=int, help="threads of PyTorch (default: PyTorch's)")
    p.add_argument('--quick', action='store_true', help='a trial run of under a minute: 64 images, 3 rounds')
    a = p.parse_args()
    if a.quick: a.n, a.rounds = min(a.n, 64), min(a.rounds, 3)
    return a

def read_images(a, tmp):
    "The bytes of `a.n` image files"
    folder = a.data or draw_har(tmp/'har', n=60, size=240)
    files = find_images(folder)[:a.n]
    return [files[i % len(files)].read_bytes() for i in range(a.n)]

def plain_batches(model, arrays, bs):
    "Predictions of eager PyTorch in batches"
    out = []
    for i in range(0, len(arrays), bs):
        x = torch.from_numpy(np.stack([f() for f in arrays[i:i + bs]]))
        with torch.no_grad(): out.append(model(x).softmax(1))
    return torch.cat(out).numpy()

def onnx_session(model, size, tmp):
    "A session of ONNX Runtime for `model`, or None if it is not installed"
    if not all(importlib.util.find_spec(m) for m in ('onnxruntime', 'onnx', 'onnxscript')): return None
    import onnxruntime as ort
    torch.onnx.export(model, (torch.zeros(1, 3, size, size),), tmp/'model.onnx', dynamo=True, input_names=['x'])
    opts = ort.SessionOptions(); opts.intra_op_num_threads = torch.get_num_threads()
    opts.add_session_config_entry('session.intra_op.allow_spinning', '0') # waiting threads would slow the other sides down
    return ort.InferenceSession(tmp/'model.onnx', opts, providers=['CPUExecutionProvider'])

def eight_bits(run, data):
    "The network in 8-bit integers, calibrated on the first images, or None if a package is missing"
    if not all(importlib.util.find_spec(m) for m in ('onnxruntime', 'onnx', 'onnxscript')): return None
    exact = Predictor(run, half=False)
    return OnnxPredictor(quantize(_onnx_model(exact), [exact.array(d) for d in data[:64]]).SerializeToString())

def turns(sides, rounds, repeat, per):
    "Call the sides alternately; for each the median seconds of a call, divided by `per`"
    times = {k: [] for k in sides}
    for r in range(rounds + 1): # the first round only warms up
        for k, f in sides.items():
            for i in range(repeat):
                start = time.perf_counter(); f(i)
                if r: times[k].append((time.perf_counter() - start) / per)
    return {k: median(v) for k, v in times.items()}

def cold_start(run, data, tmp, times):
    "Seconds of complete processes: `har_predict` for one image, and `import torch` alone"
    (tmp/'one.jpg').write_bytes(data)
    command = ['from har_fastai.cli import har_predict; har_predict()', str(tmp/'one.jpg'), '--model', str(run)]
    calls = dict(har_predict=command, import_torch=['import torch'])
    sides = {k: lambda i, c=c: subprocess.run([sys.executable, '-c', *c], check=True, capture_output=True) for k, c in calls.items()}
    return turns(sides, times, 1, 1)

def main(a, tmp):
    if a.threads: torch.set_num_threads(a.threads)
    data = read_images(a, tmp)
    learn = synth_har_learner(n=60, size=a.size)
    plain = learn.model.eval()
    card = Card('baseline', list(learn.dls.vocab), a.size, list(IMAGENET_MEAN), list(IMAGENET_STD))
    save_bundle(tmp/'run', plain, card)
    predictor, session, vocab = Predictor(tmp/'run'), onnx_session(plain, a.size, tmp), learn.dls.vocab
    openers = [lambda d=d: preprocess(open_image(d), a.size) for d in data]
    ready = [lambda x=f(): x for f in openers]
    def eager(i):
        with torch.no_grad(): return vocab[plain(torch.from_numpy(openers[i]()[None])).softmax(1).argmax()]
    one = dict(predictor=lambda i: predictor.predict(data[i]), learner=lambda i: learn.predict(HARImage.create(data[i])),
               eager=eager)
    if session: one['onnx'] = lambda i: vocab[session.run(None, {'x': np.ascontiguousarray(openers[i]()[None])})[0].argmax()]
    small = eight_bits(tmp/'run', data)
    if small: one['int8'] = lambda i: small.predict(data[i])
    many = dict(predictor=lambda i: predictor.probs(data), batches=lambda i: plain_batches(plain, openers, a.bs),
                batches_network=lambda i: plain_batches(plain, ready, a.bs))
    if small: many['int8'] = lambda i: small.probs(data)
    with learn.no_bar(), learn.no_logging():
        labels = all(predictor.predict(d)[0] == learn.predict(HARImage.create(d))[0] for d in data[:8])
        one = turns(one, a.rounds, 8, 1)
    diff = float(np.abs(predictor.probs(data) - plain_batches(plain, ready, a.bs)).max())
    many = turns(many, a.rounds, 1, len(data))
    cold = cold_start(tmp/'run', data[0], tmp, 1 if a.quick else 5)
    def against(side): return {f'{name}_vs_{k}': t[k] / t[side] for name, t in (('one', one), ('many', many)) for k in t if k != side}
    ratios, int8 = against('predictor'), against('int8') if small else {}
    return dict(what='time of a prediction, other / Predictor', ratios=ratios, int8=int8,
                one_p50_ms={k: 1e3 * v for k, v in one.items()}, many_images_per_s={k: 1 / v for k, v in many.items()}, cold_start_s=cold,
                same_labels=labels, largest_difference=diff, n=len(data), rounds=a.rounds, bs=a.bs, size=a.size, arch='baseline',
                images=a.data and 'own' or 'drawn', threads=torch.get_num_threads(), cores=os.cpu_count(), load_1min=os.getloadavg()[0],
                versions=dict(python=sys.version.split()[0], torch=torch.__version__, fastai=fastai.__version__, numpy=np.__version__))

def rounded(x):
    "Numbers to four digits, in nested dicts"
    return {k: rounded(v) for k, v in x.items()} if isinstance(x, dict) else float(f'{x:.4g}') if isinstance(x, float) else x

if __name__ == '__main__':
    args = options()
    with tempfile.TemporaryDirectory() as d, contextlib.redirect_stdout(sys.stderr): result = main(args, Path(d))
    print(json.dumps(rounded(result)))
