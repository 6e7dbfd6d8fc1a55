"Faults 29 to 40: runs and files"
import hashlib, json, os, pickle, re, resource, shutil, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from broken_images import png
from har_fastai import cli
from har_fastai.core import prepare, recipe_dls, train_baseline
from har_fastai.data.cache import cache_images, is_whole
from har_fastai.data.loaders import CachedDL
from har_fastai.files import RunError
from har_fastai.images import open_image
from har_fastai.predict.bundle import load_bundle, save_bundle
from har_fastai.predict.predictor import Predictor
from har_fastai.train.learner import har_learner
from har_fastai.train.recipes import find_recipe
from helpers import ROOT, call, contents, dataset, image, start, unlike
from interruptions import TINY, FillDisk, Poison, file_limit, history, leftovers, same_runs, sealed, stop_in_epoch, weights
from registry import row

sys.path.insert(0, str(ROOT/'benchmarks'))
from kill_resume import campaign


def copy_model(b) -> Path:
    "A copy of the model of a run"
    (b.tmp/'model').mkdir()
    for f in ('model.json', 'model.safetensors'): shutil.copy(b.trained.run/f, b.tmp/'model')
    return b.tmp/'model'


def refused_by_predict(b, model) -> str:
    image(0).save(b.tmp/'p.png')
    code, message = b.refuse(cli.har_predict, b.tmp/'p.png', '--model', model)
    assert code == 2
    return message


def after_colon(message): return message.partition(': ')[2]
def clone(net): return {k: v.clone() for k, v in net.state_dict().items()}


@row(29, 'the loss becomes NaN', 'stops with an error; the last valid model is kept, and the error names it')
def nan(b):
    out = b.tmp/'run'
    with pytest.raises(RunError) as e: train_baseline(b.trained.data, out=out, cbs=[Poison(2)], **TINY)
    message, rows, kept = str(e.value), history(out), weights(out)
    assert e.value.code == 1 and not [w for w in ('nan', 'epoch 3', str(out)) if w not in message] and len(message.splitlines()) == 1
    assert len(rows) == 2 and f'of epoch {rows.valid_macro_f1.idxmax() + 1}' in message
    last = load_file(out/'checkpoint'/'last.safetensors')
    assert all(torch.isfinite(v).all() for v in [*kept.values(), *last.values()])
    assert unlike(kept, load_file(out/'checkpoint'/'best.safetensors')) == [] and len(Predictor(out).vocab) == 15
    return re.sub(r'of epoch \d', 'of epoch N', message.replace(str(out), 'RUN'))


@row(30, 'NaN in the first epoch, with an earlier run in another folder', "a run never changes another run's files")
def other_run(b):
    before = contents(b.trained.run)
    with pytest.raises(RunError, match='epoch 1') as e: train_baseline(b.trained.data, out=b.tmp/'run', cbs=[Poison(0)], **TINY)
    assert not (b.tmp/'run'/'model.safetensors').exists() and contents(b.trained.run) == before
    code, message = b.refuse(cli.har_train, '--data', b.trained.data, '--out', b.trained.run, *b.trained.options)
    assert code == 2 and 'already holds a run' in message and '--resume' in message and contents(b.trained.run) == before
    return str(e.value).replace(str(b.tmp/'run'), 'RUN')


def fills_up(b, out, fill) -> str:
    "The disk fills up while the third epoch is saved: the old checkpoint is kept, and one sentence states what to do"
    disk = FillDisk(2, out, fill)
    with pytest.raises(RunError) as e: train_baseline(b.trained.data, out=out, cbs=[disk], **TINY)
    message = str(e.value)
    assert {f: f.read_bytes() for f in disk.kept} == disk.kept and leftovers(out) == []
    assert {f.name for f in disk.kept} == {'best.safetensors', 'last.safetensors'}
    assert e.value.code == 1 and len(message.splitlines()) == 1
    assert not [w for w in ('free space', str(out), '--resume') if w not in message], message
    return message


def no_space_for_a_cache(b) -> None:
    "Training works without the cache, and uses it once there is enough space"
    b.monkeypatch.setenv('HAR_FASTAI_CACHE', str(b.tmp/'cache'))
    df, recipe = prepare(b.trained.data, 'grouped', 42), find_recipe('demo', size=32, bs=8)
    with file_limit(100_000), pytest.warns(UserWarning, match='cannot be cached.*free space'):
        dls = recipe_dls(df, recipe, torch.device('cpu'), 0)
    assert not isinstance(dls.train, CachedDL) and len(dls.train.one_batch()[0]) == 8 and not [*(b.tmp/'cache'/'packs').iterdir()]
    assert isinstance(recipe_dls(df, recipe, torch.device('cpu')).train, CachedDL)


@row(31, 'the disk is full while saving', 'writing to a temporary file, fsync, rename; the old file is kept')
def full_disk(b):
    out = b.tmp/'run'
    def fill(): resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with file_limit(-1): message = fills_up(b, out, fill)
    train_baseline(out=out, resume=True, device='cpu', num_workers=0, faithfulness=0)
    same_runs(out, b.tiny_run)
    no_space_for_a_cache(b)
    return message.replace(str(out), 'RUN') + '; the resumed run ends with identical weights'


@row(32, 'saving a model fails halfway', 'nothing changes')
def half_export(b):
    model = copy_model(b); net, card = load_bundle(model); before, params = contents(model), clone(net)
    with torch.no_grad(): next(net.parameters()).add_(1.)
    changed = clone(net)
    with file_limit(100_000), pytest.raises(OSError): save_bundle(model, net, card)
    assert contents(model) == before and unlike(net.state_dict(), changed) == []
    assert unlike(load_bundle(model)[0].state_dict(), params) == []
    save_bundle(model, net, card); assert unlike(load_bundle(model)[0].state_dict(), changed) == [] # with enough space, it is saved
    return 'the old model and its card are kept, the network in memory is unchanged, no temporary file is left'


@row(33, 'a truncated model file', 'a clear error')
def truncated(b):
    f = copy_model(b)/'model.safetensors'; f.write_bytes(f.read_bytes()[:-1000])
    message = refused_by_predict(b, f.parent)
    assert 'sha256' in message and str(f) in message
    return after_colon(message).replace(str(f), f.name)


@row(34, 'kill -9 at any moment, then resume', 'resumes; the final weights equal those of an uninterrupted run')
def killed(b):
    res = campaign(b.trained.data, b.tmp, kills=3, seed=1, wait=.5, size=32, epochs=5, bs=8)
    assert res['equal'] and res['half_written'] == [] and res['left_over'] == [], res
    assert res['kills'] == 3 and res['files_read_meanwhile'] > 10, res
    return 'after three kills at random moments, each followed by a resume, the weights are identical; no file was ever half-written'


class Evil:
    "Its pickle creates a file when it is loaded"
    def __init__(self, ran): self.ran = ran
    def __reduce__(self): return (open, (str(self.ran), 'w'))


def evil_files(b, evil) -> list[Path]:
    "The object as a pickle, as a PyTorch file, and under the name of a safe format"
    files = [b.tmp/name for name in ('evil.pkl', 'evil.pth', 'evil.safetensors')]
    for f in files: f.write_bytes(pickle.dumps(evil))
    torch.save({'w': evil}, b.tmp/'evil.pth')
    return files


@row(35, 'a malicious pickle file given as a model', 'never unpickled; rejected with the reason')
def hostile(b):
    ran, data, messages = b.tmp/'ran', dataset(b.tmp/'d'), []
    train = (cli.har_train, '--data', data, '--out', b.tmp/'run', '--recipe', 'demo', '--device', 'cpu', '--weights')
    for f in evil_files(b, Evil(ran)):
        messages.append(refused_by_predict(b, f))
        code, message = b.refuse(*train, f)
        assert code == 2 and f.name in message and not ran.exists()
    inside = copy_model(b)/'model.safetensors'; shutil.copy(b.tmp/'evil.pth', inside) # under a good name, with a matching checksum
    card = json.loads((inside.parent/'model.json').read_text()); card['sha256'] = hashlib.sha256(inside.read_bytes()).hexdigest()
    (inside.parent/'model.json').write_text(json.dumps(card))
    refused_by_predict(b, inside.parent)
    run = shutil.copytree(b.trained.run, b.tmp/'resumed'); shutil.copy(b.tmp/'evil.pth', run/'checkpoint'/'last.safetensors')
    code, message = b.refuse(cli.har_train, '--resume', '--out', run, '--device', 'cpu')
    assert code == 2 and 'last.safetensors' in message
    assert not ran.exists()
    torch.load(b.tmp/'evil.pth', weights_only=False); assert ran.exists() # so loading the pickle would have executed it
    return after_colon(messages[0]).replace(f'{b.tmp}/', '')


@row(36, 'a huge upload, and 20 requests at once, to the HTTP service',
     'limits on size and pixels, a queue or lock, a clear message, no crash')
def uploads(b):
    "For the service, which has the same limits as the app; other cases are in test_apps.py and test_service.py"
    pytest.importorskip('fastapi')
    from starlette.testclient import TestClient
    from har_fastai.serve.service import Limits, make_service
    files = sorted((b.trained.data/'train').iterdir())[:20]; p = Predictor(b.trained.run)
    probs = p.probs(files)
    with TestClient(make_service(b.trained.run, limits=Limits(bytes=1_000_000))) as client:
        def post(data): return client.post('/predict', files=[('files', ('x', data))])
        huge, bomb = post(bytes(2_000_000)), post(png(20000, 10000))
        assert huge.status_code == 413 and bomb.status_code == 422 and '200 megapixels' in bomb.text, (huge.text, bomb.text)
        with ThreadPoolExecutor(20) as pool: responses = list(pool.map(post, [f.read_bytes() for f in files]))
        assert [r.status_code for r in responses] == [200] * 20
        for r, own in zip(responses, probs): # compare by probability, since two classes may be equally likely
            for t in r.json()['predictions'][0]['top']: assert abs(t['probability'] - own[p.vocab.index(t['label'])]) < 1e-5
        assert np.ptp(probs, axis=0).max() > 1e-3 # otherwise all images would have the same prediction
        assert client.get('/health').status_code == 200
    return (f'{huge.json()["detail"]}; an image of 200 megapixels is rejected before decoding; '
            'each of 20 simultaneous requests gets the probabilities of its own image')


WAYS = {'cached images': {}, 'uncached with 0 workers': dict(cached=False), 'uncached with 2 workers': dict(cached=False, num_workers=2)}


@row(37, 'the same seed twice', 'identical weights for each number of workers, 0 or 2')
def same_seed(b):
    df = prepare(b.trained.data, 'grouped', 42)
    def trained(seed, **kw):
        recipe = find_recipe('demo', size=32, bs=16, epochs=2, num_ops=2, erase=.5, seed=seed)
        learn = har_learner(recipe_dls(df, recipe, torch.device('cpu'), **{'num_workers': 0, **kw}), recipe)
        assert isinstance(learn.dls.train, CachedDL) == kw.get('cached', True)
        assert learn.dls.train.fake_l.num_workers == kw.get('num_workers', 0)
        learn.fit_recipe()
        torch.rand(7); np.random.rand(3) # random draws between two runs must not matter
        return clone(learn.model), [list(map(float, r)) for r in learn.recorder.values]
    for way, kw in WAYS.items():
        (one, values), (two, again), (other, _) = (trained(seed, **kw) for seed in (1, 1, 2))
        assert unlike(one, two) == [] and values == again, way
        assert unlike(one, other) != [], 'the seed has no effect'
    return f'identical weights ({", ".join(WAYS)}); another seed gives other weights'


@row(38, 'the data folder is read-only', 'everything works; runs and caches are written elsewhere')
def read_only(b):
    data = b.tmp/'data'; shutil.copytree(b.trained.data, data); before = contents(data)
    (data/'Training_set.csv').open('a').write('gone.jpg,running\n') # a fault to fix
    with sealed(data):
        with pytest.raises(OSError): (data/'x').touch()
        code, message = b.refuse(cli.har_check, data, '--fix')
        assert code == 2 and 'cannot be written' in message and 'fixed.csv' in message
    shutil.copy(b.trained.data/'Training_set.csv', data)
    b.monkeypatch.chdir(b.tmp); run = b.tmp/'run'
    with sealed(data):
        train_baseline(data, out=run, **{**TINY, 'epochs': 1})
        evaluate, predict = ('har_evaluate', run, '--data', data, '--faithfulness', 0), ('har_predict', data/'test', '--model', run)
        for argv in (('har_check', data), evaluate, predict):
            done = call(*argv)
            assert done.returncode == 0, done.stderr
    assert contents(data) == before
    return 'checks, training, evaluation and prediction work; nothing was written there'


@row(39, 'two runs in one folder at once', 'the second one fails and reports the reason')
def two_runs(b):
    out = b.tmp/'run'
    train = ('--data', b.trained.data, '--out', out, *b.trained.options)
    with start('har_train', *train) as p:
        try:
            stop_in_epoch(p, out, 2); before = contents(out) # the process is stopped but alive: it still holds the lock
            code, message = b.refuse(cli.har_train, '--resume', '--out', out, '--device', 'cpu')
            assert code == 2 and 'in use' in message and str(out) in message
            code, other = b.refuse(cli.har_train, *train)
            assert code == 2 and str(out) in other and contents(out) == before
        finally: p.kill()
    code, unfinished = b.refuse(cli.har_predict, b.trained.data/'test', '--model', out)
    assert code == 2 and 'not finished' in unfinished and '--resume' in unfinished
    return after_colon(message).replace(str(out), 'RUN')


@row(40, 'a cache of decoded images that is out of date, truncated, or made from other images', 'detected by its fingerprint, and rebuilt')
def stale_cache(b):
    b.monkeypatch.setenv('HAR_FASTAI_CACHE', str(b.tmp/'cache'))
    for i in range(6): image(i).save(b.tmp/f'{i}.png')
    paths = sorted(b.tmp.glob('?.png'))
    def right(c): return all(np.array_equal(c.array(i), np.asarray(open_image(f))) for i, f in enumerate(paths))
    first = cache_images(paths).folder; other = cache_images(paths[::-1]).folder; assert first != other
    def cut(name): (first/name).write_bytes((first/name).read_bytes()[:-10])
    def swap(): shutil.rmtree(first); shutil.copytree(other, first)
    def scramble(): (first/'index.npy').write_bytes(bytes(reversed((first/'index.npy').read_bytes())))
    damages = [lambda: cut('pixels.bin'), lambda: cut('index.npy'), lambda: cut('pack.json'), (first/'pack.json').unlink, swap, scramble]
    for damage in damages:
        damage(); assert not is_whole(first)
        assert right(cache_images(paths)) and is_whole(first)
    image(99).save(paths[2]); assert right(c := cache_images(paths)) and c.folder != first # a stale one
    return 'rebuilt if it is truncated, made from other images, older than an image, or has a damaged index'
