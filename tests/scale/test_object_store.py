"Labelling from and to an S3 object store, served by moto on this machine; the parts are read by DuckDB"
import pandas as pd
import pytest

from har_fastai.scale.label import label_images
from har_fastai.scale.parts import LabelJob, read_parts
from har_fastai.testing import put_shapes

moto = pytest.importorskip('moto.server')
pytest.importorskip('s3fs')


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    "A bucket with 24 drawings, of which one is damaged; the settings are those that users give, in environment variables"
    import s3fs
    server = moto.ThreadedMotoServer('127.0.0.1', 0)
    server.start()
    host, port = server.get_host_and_port()
    for k, v in dict(AWS_ACCESS_KEY_ID='key', AWS_SECRET_ACCESS_KEY='secret', AWS_ENDPOINT_URL=f'http://{host}:{port}',
                     AWS_DEFAULT_REGION='us-east-1').items(): monkeypatch.setenv(k, v)
    s3fs.S3FileSystem.clear_instance_cache()
    put_shapes(tmp_path/'photos', [(f'{i:02d}.png', 'circles') for i in range(24)])
    (tmp_path/'photos'/'05.png').write_bytes(b'no image')
    fs = s3fs.S3FileSystem()
    fs.mkdir('store')
    fs.put(str(tmp_path/'photos'), 'store/photos', recursive=True)
    yield fs
    fs.rm('store', recursive=True) # moto keeps it for the next server
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_images_and_labels_in_an_object_store(bucket, tmp_path):
    there = label_images('s3://store/photos', 's3://store/labels', 'baseline', block=8)
    here = label_images(tmp_path/'photos', tmp_path/'labels', 'baseline', block=8)
    assert there.labelled == here.labelled == 24 and there.errors == here.errors == 1
    got = pd.concat([t.to_pandas() for t in read_parts(LabelJob('s3://store/labels'))], ignore_index=True)
    same = ['row', 'label', 'probability', 'probabilities', 'unsure']
    pd.testing.assert_frame_equal(got[same], pd.read_parquet(tmp_path/'labels')[same])
    assert got.path[0] == 's3://store/photos/00.png' and 'cannot be read' in got.error[5]


def test_a_job_in_an_object_store_goes_on(bucket):
    label_images('s3://store/photos', 's3://store/labels', 'baseline', block=8)
    part = next(p for p in bucket.ls('store/labels') if 'part-' in p)
    bucket.rm(part)
    assert label_images('s3://store/photos', 's3://store/labels', 'baseline', block=8).labelled == 8
    assert bucket.exists(part)


def test_duckdb_reads_the_parts(tmp_path):
    duckdb = pytest.importorskip('duckdb')
    put_shapes(tmp_path/'photos', [(f'{i:02d}.png', 'circles') for i in range(20)])
    label_images(tmp_path/'photos', tmp_path/'labels', 'baseline', block=8)
    rows = duckdb.sql(f"select label, count(*) as n from '{tmp_path}/labels/part-*.parquet' group by 1").df()
    assert rows.set_index('label').n.to_dict() == pd.read_parquet(tmp_path/'labels').label.value_counts().to_dict()
