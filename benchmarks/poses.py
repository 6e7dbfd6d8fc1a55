"""Macro-F1 of the recipe `pose`, which sees keypoints only, on all test images and on those in which a person was found.

A person counts as found at the threshold of this library, 0.3, and at MediaPipe's default of 0.5, which leaves out people that are
small, cut off or hidden. The predictions are the same.

Trains with several seeds on the tail split (the last 20 % of rows are test images); the poses are computed once, and cached. The
confidence intervals of the means are bootstraps over the test images, with the same draws for all seeds. Prints one JSON line. Needs
--data, and the pose model (har_download pose, or the environment variable HAR_POSE_MODEL).
"""
import argparse
import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from har_fastai.core import train_baseline
from har_fastai.evaluate.metrics import confusion, macro_f1
from har_fastai.evaluate.scoring import class_indices
from har_fastai.pose.keypoints import PoseDetector, cached_poses
from har_fastai.data.splits import read_split
from har_fastai.data.tables import read_har
from har_fastai.train.recipes import find_recipe
from har_fastai.train.runs import machine

from reproduce import mean_interval, test_table


def scores(pairs, n):
    "The mean macro-F1 over the seeds with its confidence interval, and that of each seed"
    each = [float(macro_f1(confusion(y, p, n))) for y, p in pairs]
    low, high = mean_interval(pairs, n)
    return dict(value=round(float(np.mean(each)), 4), low=low, high=high, by_seed=[round(v, 4) for v in each], n=len(pairs[0][0]))


def people_found(run, table, data, least):
    "For each image whether a person is found with a score of at least `least`"
    sha = read_split(run.file('split.csv')).set_index('filename').sha256[table.filename]
    paths = read_har(data).set_index('filename').path[table.filename]
    return np.array([len(x) > 0 for x in cached_poses(PoseDetector(least=least), list(sha), list(paths))])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder or table of labelled photographs')
    p.add_argument('--seeds', nargs='+', type=int, default=[42, 43, 44])
    a = p.parse_args()
    pairs, valid = [], []
    with tempfile.TemporaryDirectory() as tmp, redirect_stdout(sys.stderr): # standard output is for the JSON line
        for seed in a.seeds:
            run = train_baseline(a.data, 'pose', split='tail', out=Path(tmp)/str(seed), seed=seed).run
            table, vocab = test_table(run), sorted(run.predictions.label.unique())
            pairs.append(class_indices(table, vocab))
            valid.append(round(run.metrics['valid']['macro_f1']['value'], 4))
        found, surely = (people_found(run, table, a.data, least) for least in (PoseDetector().least, 0.5))
    print(json.dumps(dict(what='poses alone: macro-F1', seeds=a.seeds, epochs=find_recipe('pose').epochs, valid=valid,
                          all_images=scores(pairs, len(vocab)), with_person=scores([(y[found], q[found]) for y, q in pairs], len(vocab)),
                          person_found=round(float(found.mean()), 4),
                          at_threshold_0_5=scores([(y[surely], q[surely]) for y, q in pairs], len(vocab)),
                          found_at_0_5=round(float(surely.mean()), 4), **machine())))


if __name__ == '__main__': main()
