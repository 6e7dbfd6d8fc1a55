"""har_label on Ray against har_predict in one process, the cost of scheduling and writing, and a simulation of larger clusters.

Measured on the images of --data: images/s of the loop of `har_predict` (all cores, one process) and of `label_on_ray` with one worker
for each core, both from the first result to the last, in turns; the processor
time of an image depends less on other programs that run at the same time. The overheads are measured without images or network: listing, reading
and writing of a block with constant probabilities, and Ray's scheduling of empty blocks. The simulation assumes that the storage keeps
up: the workers label blocks of --block images, the driver lists the images first and hands out blocks at the measured rate.
Prints one JSON line.
"""
import argparse
import json
import math
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from har_fastai.predict.inputs import find_sources
from har_fastai.predict.onnx import open_predictor
from har_fastai.predict.outputs import predict_sources
from har_fastai.scale.blocks import label_block, pack_model
from har_fastai.scale.cluster import label_on_ray, ray_session
from har_fastai.scale.parts import LabelJob, begin_job
from har_fastai.scale.sources import Ref, list_images

PRICE = 0.04 # for a core and hour, in the unit of the costs


def steady(times:list[float], counts:list[int]) -> float:
    "Images/s from the first result to the last"
    return sum(counts[1:]) / (times[-1] - times[0])


def one_process(model:str, files:list[str]) -> tuple[float, float]:
    "Images/s of the loop of `har_predict`, and seconds of processor time for each image"
    times, cpu = [], time.process_time()
    for _ in predict_sources(open_predictor(model), find_sources(files)): times.append(time.perf_counter())
    skip, cpu = len(times) // 10, time.process_time() - cpu # until the threads are at work
    return steady(times[skip:], [1] * (len(times) - skip)), cpu / len(times)


def on_ray(model:str, files:list[str], block:int, workers:int) -> tuple[float, float]:
    "Images/s of `label_on_ray`, after the first block of each worker, and seconds of processor time of the workers for each image"
    with tempfile.TemporaryDirectory() as tmp:
        job = LabelJob(tmp)
        begin_job(job, (Ref(f, f) for f in files), block=block, top=3)
        times, counts, cpu = [], [], 0.
        for c in label_on_ray(job, range(job.blocks), pack_model(model), workers):
            times.append(time.perf_counter()); counts.append(c['images']); cpu += c['cpu']
        return steady(times[workers - 1:], counts[workers - 1:]), cpu / sum(counts)


class Constant:
    "A predictor that computes nothing"
    vocab, card = [f'class_{i}' for i in range(15)], None
    def stream(self, images):
        for _ in images: yield np.full(15, 1 / 15, np.float32), ''
    def unsure(self, probs): return ''
    def candidates(self, probs): return []


def overheads(block:int) -> dict:
    "Seconds for each image (listing, reading and writing) and for each block (scheduling)"
    with tempfile.TemporaryDirectory() as tmp:
        names = Path(tmp)/'photos'
        for k in range(20):
            (names/f'{k:02d}').mkdir(parents=True)
            for i in range(1000): (names/f'{k:02d}'/f'{i:05d}.jpg').touch()
        start = time.perf_counter()
        job = LabelJob(f'{tmp}/labels')
        begin_job(job, list_images(names), block=block, top=3)
        listing = (time.perf_counter() - start) / 20_000
        start = time.perf_counter()
        for i in range(job.blocks): label_block(job, Constant(), i)
        writing = (time.perf_counter() - start) / 20_000
    with ray_session(2) as ray:
        def nothing(batch): return dict(block=batch['block'])
        def rate(n):
            data = ray.data.from_items([dict(block=i) for i in range(n)], override_num_blocks=n)
            start = time.perf_counter()
            for _ in data.map_batches(nothing, batch_size=1).iter_rows(): pass
            return time.perf_counter() - start
        few, many = rate(50), rate(1050)
    return dict(listing=listing, writing=writing, scheduling=(many - few) / 1000, start=few)


def simulate(images:float, workers:int, per_image:float, cost:dict, block:int) -> dict:
    "Hours, images per hour and cost of a job on workers with one core each"
    blocks = math.ceil(images / block)
    each = block * (per_image + cost['writing'])
    compute = math.ceil(blocks / workers) * each
    schedule = blocks * cost['scheduling']
    seconds = images * cost['listing'] + 60 + max(compute, schedule) # a minute until all workers have started
    bound = max((compute, 'network'), (schedule, 'scheduling'), (images * cost['listing'], 'listing'))[1]
    return dict(images=images, workers=workers, hours=seconds / 3600, images_per_hour=images / seconds * 3600,
                cost=workers * seconds / 3600 * PRICE, bound=bound)


def rounded(v): return {k: rounded(x) for k, x in v.items()} if isinstance(v, dict) else float(f'{v:.4g}') if isinstance(v, float) else v


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder of images')
    p.add_argument('--model', default='lite2')
    p.add_argument('--n', type=int, default=600, help='images per round')
    p.add_argument('--rounds', type=int, default=2)
    p.add_argument('--block', type=int, default=1000, help='images in a block of the simulation')
    a = p.parse_args()
    cores = len(os.sched_getaffinity(0))
    files = [str(f) for f in sorted(Path(a.data).glob('*.jpg'))[:a.n]]
    with redirect_stdout(sys.stderr):
        rates = [(one_process(a.model, files), on_ray(a.model, files, 20, cores)) for _ in range(a.rounds)]
        cost = overheads(a.block)
    walls, cpus = ([[side[k] for side in r] for r in rates] for k in (0, 1))
    (one, ray_rate), (one_cpu, ray_cpu) = (map(float, np.median(v, axis=0)) for v in (walls, cpus))
    sizes = [(n, w) for n in (10**6, 10**7, 10**8, 10**9) for w in (2, 16, 1024)]
    table = [rounded(simulate(n, w, ray_cpu, cost, a.block)) for n, w in sizes]
    knee = a.block / cost['scheduling'] * ray_cpu
    print(json.dumps(rounded(dict(
        what='labelling on Ray against har_predict in one process', model=a.model, images=len(files), cores=cores, rounds=a.rounds,
        one_process_images_per_s=one, ray_images_per_s=ray_rate, ratio=float(np.median([b / x for x, b in walls])),
        cpu_seconds_per_image=dict(one_process=one_cpu, ray=ray_cpu), cpu_ratio=one_cpu / ray_cpu,
        overhead_seconds=cost, block=a.block, workers_until_scheduling_bounds=knee)) | dict(simulated=table)))
