"Labelling on Ray: nodes and drivers that are killed, and a cluster that is reached through Ray's client"
import os, signal, subprocess, sys, time

import pandas as pd
import pytest

from har_fastai.scale.cluster import label_on_ray
from har_fastai.scale.label import label_images
from har_fastai.scale.parts import LabelJob, done_blocks
from har_fastai.testing import put_shapes
from helpers import ROOT, free_port

pytest.importorskip('ray')
pytestmark = pytest.mark.slow('starts Ray clusters')
IMAGES, BLOCK = 240, 6


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "A folder of drawings, of which two are damaged"
    folder = tmp_path_factory.mktemp('photos')
    put_shapes(folder, [(f'{i:03d}.png', 'circles') for i in range(IMAGES)])
    for i in (7, 133): (folder/f'{i:03d}.png').write_bytes(b'no image')
    return folder


@pytest.fixture(scope='module')
def undisturbed(photos, tmp_path_factory):
    "The rows of one process"
    dest = tmp_path_factory.mktemp('labels')
    label_images(photos, dest, 'baseline', block=BLOCK)
    return pd.read_parquet(dest)


@pytest.fixture
def nodes():
    "A Ray cluster of two nodes with one CPU each; the first one has a port for Ray's client"
    from ray.cluster_utils import Cluster
    cluster, port = Cluster(), free_port()
    small = dict(num_cpus=1, object_store_memory=100_000_000, include_dashboard=False)
    try: yield cluster, [cluster.add_node(**small, ray_client_server_port=port), cluster.add_node(**small)], port
    finally: cluster.shutdown()


def start(photos, dest, address) -> subprocess.Popen:
    "`har_label` in a process of its own"
    args = ['label', photos, '--out', dest, '--model', 'baseline', '--block', BLOCK, '--address', address, '--workers', 2]
    return subprocess.Popen([sys.executable, '-m', 'har_fastai', *map(str, args)], env={**os.environ, 'PYTHONPATH': str(ROOT)},
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def wait_for_parts(p, dest, n:int, seconds:float=120):
    "Wait until there are `n` parts"
    end = time.monotonic() + seconds
    while len(done_blocks(LabelJob(dest))) < n:
        if p.poll() is not None: pytest.fail(p.stdout.read())
        assert time.monotonic() < end, f'{len(done_blocks(LabelJob(dest)))} parts in {seconds} s'
        time.sleep(.05)


def test_a_node_and_then_the_driver_are_killed(photos, undisturbed, nodes, tmp_path):
    cluster, (head, other), _ = nodes
    first = start(photos, tmp_path, cluster.address)
    wait_for_parts(first, tmp_path, 4)
    cluster.remove_node(other, allow_graceful=False) # its processes are killed
    wait_for_parts(first, tmp_path, 16)
    os.kill(first.pid, signal.SIGKILL)
    before = len(done_blocks(LabelJob(tmp_path)))
    assert before < IMAGES // BLOCK, 'the job was finished too early for this test'
    second = start(photos, tmp_path, cluster.address)
    out, _ = second.communicate(timeout=300)
    assert second.returncode == 0, out
    assert f'{IMAGES} images' in out and '2 not read' in out
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path), undisturbed)


def test_through_the_client_of_ray(photos, undisturbed, nodes, tmp_path):
    *_, port = nodes
    out, _ = start(photos, tmp_path, f'ray://127.0.0.1:{port}').communicate(timeout=300)
    assert f'{IMAGES} images' in out and '2 not read' in out, out
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path), undisturbed)
    with pytest.raises(Exception, match='cannot be read|damaged|was cut short|not fit') as e: # an error of a worker is one sentence
        list(label_on_ray(LabelJob(tmp_path), [0], {'broken.onnx': b'no model'}, workers=1, address=f'ray://127.0.0.1:{port}'))
    assert type(e.value).__name__ in ('HARError', 'RunError') and '\n' not in str(e.value)


def test_workers_on_this_machine(photos, undisturbed, tmp_path):
    done = label_images(photos, tmp_path, 'baseline', block=BLOCK, workers=2)
    assert done.labelled == IMAGES and done.errors == 2
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path), undisturbed)


def test_an_error_of_a_worker_is_one_sentence(photos, tmp_path):
    label_images(photos, tmp_path, 'baseline', block=BLOCK)
    with pytest.raises(Exception, match='cannot be read|damaged|was cut short|not fit') as e:
        list(label_on_ray(LabelJob(tmp_path), [0], {'broken.onnx': b'no model'}, workers=1))
    assert type(e.value).__name__ in ('HARError', 'RunError') and '\n' not in str(e.value)
