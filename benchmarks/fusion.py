"""What the main person, poses, parts and objects add to an image network: fused model less network alone, on the same test images.

--model is the folder of a run, or of a model together with --split; its images are --data, and the pose model is that of
har_download pose (or HAR_POSE_MODEL). Each combination of streams is trained with each of the --seeds; `pose` alone is a classifier of
poses. Scores are those of the test images, differences have 95 % CI by paired bootstrap over them. Prints one JSON line.
"""
import argparse
import json
import sys
import time
from contextlib import redirect_stdout

import numpy as np
import torch
from har_fastai.evaluate.metrics import class_f1, confusion, difference_interval, macro_f1
from har_fastai.fusion.fuse import run_images
from har_fastai.fusion.streams import StreamExtractor, cached_streams
from har_fastai.fusion.training import fit_head
from har_fastai.predict.base import find_model
from har_fastai.train.runs import Run

COMBINATIONS = ('pose', 'image person', 'image pose', 'image parts', 'image objects', 'image pose parts objects',
                'image person pose parts objects')
WEAKEST = ('texting', 'calling', 'listening_to_music', 'drinking', 'sitting') # lowest F1 of a fine-tuned network


def predicted(head, streams, rows):
    "Predicted classes of some images"
    x = torch.from_numpy(np.concatenate([streams[k][rows] for k in head.streams], 1))
    with torch.no_grad(): return head(x).argmax(1).numpy()


def f1(y, p, n): return float(macro_f1(confusion(y, p, n)))


def measure(streams, people, y, part, names, seed, vocab):
    "Scores of a combination of streams on the test images"
    n, test, fit = len(vocab), part == 'test', part != 'test'
    own = {k: streams[k] for k in names}
    head = fit_head({k: v[fit] for k, v in own.items()}, people[fit], y[fit], part[fit] == 'valid', n, seed=seed).model
    p, alone, truth = predicted(head, own, test), streams['image'][test, 1:].argmax(1), y[test]
    seen = streams['pose'][test, 0] > 0
    weak = [vocab.index(c) for c in WEAKEST if c in vocab]
    gain = (class_f1(confusion(truth, p, n)) - class_f1(confusion(truth, alone, n)))[weak].mean() if weak else None
    return dict(streams=' '.join(names), seed=seed, macro_f1=f1(truth, p, n), accuracy=float((p == truth).mean()),
                with_person=f1(truth[seen], p[seen], n), weakest_five=gain and float(gain),
                difference=[float(v) for v in difference_interval(truth, alone, p, n)])


if __name__ == '__main__':
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--model', default='lite2', help='folder of a run, or a model in the package')
    a.add_argument('--data', required=True, help='folder or table of labelled photographs')
    a.add_argument('--split', help='for a model without split.csv: grouped or tail')
    a.add_argument('--seeds', type=int, nargs='+', default=[42, 43, 44])
    a.add_argument('--pose-model')
    a.add_argument('--device', default='cpu')
    a = a.parse_args()
    folder, start = find_model(a.model), time.perf_counter()
    with redirect_stdout(sys.stderr): # standard output is for the JSON line
        df = run_images(Run(folder), a.data, a.split)
        extractor = StreamExtractor(folder, a.pose_model, a.device)
        streams, people = cached_streams(extractor, list(df.sha256), list(df.path), list(df.width / df.height))
    vocab, part = extractor.image.card.vocab, df.part.to_numpy()
    y = df.label.map(vocab.index).to_numpy()
    test = part == 'test'
    rows = []
    for names in COMBINATIONS:
        for seed in a.seeds:
            rows.append(measure(streams, people, y, part, names.split(), seed, vocab))
            print({k: v if isinstance(v, (str, int)) else np.round(v, 4) for k, v in rows[-1].items()}, file=sys.stderr, flush=True)
    print(json.dumps(dict(what='main person, poses, parts and objects added to an image network', model=a.model, n=int(test.sum()), seeds=a.seeds,
                          person_found=float((streams['pose'][:, 0] > 0).mean()),
                          image=f1(y[test], streams['image'][test, 1:].argmax(1), len(vocab)), rows=rows,
                          seconds=round(time.perf_counter() - start))))
