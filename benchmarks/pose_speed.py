"""Images per second of `PoseDetector.detect_many`, with one thread and with one for each core, in turns.

The images are read from their files, as in a data set that is processed for the first time. Prints one JSON line. Needs --data, and
the pose model (har_download pose, or the environment variable HAR_POSE_MODEL). Absolute numbers depend on the machine.
"""
import argparse
import json
import os
import time

import numpy as np
from har_fastai.data.tables import read_har
from har_fastai.pose.keypoints import PoseDetector
from har_fastai.train.runs import machine


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder or table of labelled photographs')
    p.add_argument('--images', type=int, default=300, help='number of images in each round')
    p.add_argument('--rounds', type=int, default=3)
    a = p.parse_args()
    detector, cores = PoseDetector(), len(os.sched_getaffinity(0))
    paths = list(read_har(a.data).sample(frac=1, random_state=0).path[:a.images])
    detector.detect_many(paths[:32]) # opens a landmarker for each thread
    speeds, found = {1: [], cores: []}, []
    for _ in range(a.rounds):
        for threads, speed in speeds.items():
            start = time.perf_counter()
            people = detector.detect_many(paths, threads)
            speed.append(len(paths) / (time.perf_counter() - start))
            found = [len(x) > 0 for x in people]
    medians = {k: round(float(np.median(v)), 1) for k, v in speeds.items()}
    print(json.dumps(dict(what='pose extraction, images per second', n=len(paths), rounds=a.rounds,
                          person_found=round(float(np.mean(found)), 3), one_thread=medians[1], all_cores=medians[cores], cores=cores, **machine())))


if __name__ == '__main__': main()
