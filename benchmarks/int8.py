"""An exported model with 8-bit integers, compared with 32-bit numbers: macro-F1, size and speed.

Both files are exported with ONNX from the same model. Up to 256 photographs of the training part are used, half for the calibration
and half to compare. The scores are those of the last 20 % of the rows, the test images; for a model that was trained on them, such
as `baseline`, only the difference is meaningful. Its interval is a paired bootstrap. Speeds are measured in turns and include
opening and resizing the image; above 1, a ratio means that the 32-bit file is slower. Prints one JSON line. Needs --data.
"""
import argparse
import json
import os
import random
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from har_fastai.data.checks import check_har, usable
from har_fastai.data.splits import split_har
from har_fastai.data.tables import read_har
from har_fastai.evaluate.metrics import paired_bootstrap
from har_fastai.evaluate.scoring import class_indices, predict_table, score
from har_fastai.predict.export import export_onnx
from har_fastai.predict.onnx import OnnxPredictor
from har_fastai.predict.quantization import export_int8

from predict_speed import rounded, turns

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('model', nargs='?', default='lite2', help='folder of a model, or name of an included one')
    p.add_argument('--data', required=True, help='folder or table of labelled images')
    p.add_argument('--n', type=int, default=96, help='images per round')
    p.add_argument('--rounds', type=int, default=5)
    a = p.parse_args()
    with redirect_stdout(sys.stderr): df = split_har(usable(check_har(read_har(a.data))), 'tail', 42) # standard output is for the JSON line
    train, test = (df[df.part == part].reset_index(drop=True) for part in ('train', 'test'))
    with tempfile.TemporaryDirectory() as tmp:
        files = dict(float32=export_onnx(a.model, Path(tmp)/'float32.onnx'))
        files['int8'], agreement, checked = export_int8(
            a.model, Path(tmp)/'int8.onnx', random.Random(0).sample(train.path.tolist(), min(256, len(train))))
        sizes = {k: f.stat().st_size / 1e6 for k, f in files.items()}
        sides = {k: OnnxPredictor(f) for k, f in files.items()}
        preds = {k: predict_table(s, test) for k, s in sides.items()}
        vocab, few = sides['int8'].vocab, test.path.tolist()[:a.n]
        (y, before), (_, after) = (class_indices(preds[k], vocab) for k in sides)
        one = turns({k: lambda i, s=s: s.predict(few[i % len(few)]) for k, s in sides.items()}, a.rounds, 12, 1)
        many = turns({k: lambda i, s=s: s.probs(few) for k, s in sides.items()}, a.rounds, 1, len(few))
    scores = {k: {m: v for m, v in score(t, vocab, 1.).items() if m in ('n', 'macro_f1', 'accuracy')} for k, t in preds.items()}
    value, low, high = paired_bootstrap(y, before, after, len(vocab))
    print(json.dumps(rounded(dict(
        what='8-bit integers against 32-bit numbers', model=a.model, **scores, same_class=float((before == after).mean()),
        difference=dict(value=value, low=low, high=high),
        megabytes=sizes, one=one['float32'] / one['int8'], many=many['float32'] / many['int8'],
        one_ms={k: 1e3 * v for k, v in one.items()}, many_images_per_s={k: 1 / v for k, v in many.items()},
        agreement=agreement, checked=checked, rounds=a.rounds, cores=os.cpu_count()))))
