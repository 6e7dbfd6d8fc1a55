"Faults 29 to 40: runs and files"
import hashlib, json, os, pickle, re, resource, shutil, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from broken import png
from har_fastai import cli
from har_fastai.core import prepare, recipe_dls, train_baseline
from har_fastai.files import RunError
from har_fastai.images import open_image
from har_fastai.predict.bundle import load_bundle, save_bundle
from har_fastai.predict.predictor import Predictor
from har_fastai.data.loaders import CachedDL
from har_fastai.data.cache import is_whole, cache_images
from har_fastai.train.recipes import find_recipe
from har_fastai.train.learner import har_learner
from helpers import ROOT, dataset, image, start, unlike
from killing import TINY, FillDisk, Poison, contents, file_limit, history, leftovers, mounted, same_runs, stop_in_epoch, weights
from rows import row

sys.path.insert(0, str(ROOT/'benchmarks'))
from kill_resume import campaign


def model_of(b) -> Path:
    "A copy of the model of a run"
    (b.tmp/'model').mkdir()
    for f in ('model.json', 'model.safetensors'): shutil.copy(b.trained.run/f, b.tmp/'model')
    return b.tmp/'model'


def told_by_predict(b, model) -> str:
    image(0).save(b.tmp/'p.png')
    code, told = b.refuse(cli.har_predict, b.tmp/'p.png', '--model', model)
    assert code == 2
    return told


@row(29, 'the loss becomes NaN', 'stops with an error; the last good model is kept and named')
def nan(b):
    out = b.tmp/'run'
    with pytest.raises(RunError) as e: train_baseline(b.trained.data, out=out, cbs=[Poison(2)], **TINY)
    told, rows, kept = str(e.value), history(out), weights(out)
    assert e.value.code == 1 and 'nan' in told and 'epoch 3' in told and str(out) in told and len(told.splitlines()) == 1
    assert len(rows) == 2 and f'of epoch {rows.valid_macro_f1.idxmax() + 1}' in told
    assert all(torch.isfinite(v).all() for v in [*kept.values(), *load_file(out/'checkpoint'/'last.safetensors').values()])
    assert unlike(kept, load_file(out/'checkpoint'/'best.safetensors')) == [] and len(Predictor(out).vocab) == 15
    return re.sub(r'of epoch \d', 'of epoch N', told.replace(str(out), 'RUN'))


@row(30, 'NaN in the first epoch, beside an older run', "a run never touches another run's files")
def other_run(b):
    before = contents(b.trained.run)
    with pytest.raises(RunError, match='epoch 1') as e: train_baseline(b.trained.data, out=b.tmp/'run', cbs=[Poison(0)], **TINY)
    assert not (b.tmp/'run'/'model.safetensors').exists() and contents(b.trained.run) == before
    code, told = b.refuse(cli.har_train, '--data', b.trained.data, '--out', b.trained.run, *b.trained.options)
    assert code == 2 and 'already holds a run' in told and '--resume' in told and contents(b.trained.run) == before
    return str(e.value).replace(str(b.tmp/'run'), 'RUN')


def until_full(b, out, full) -> str:
    "A disk is full while the third epoch is saved: the old checkpoint stays, and with room again the run ends as if nothing had been"
    disk = FillDisk(2, out, full)
    with pytest.raises(RunError) as e: train_baseline(b.trained.data, out=out, cbs=[disk], **TINY)
    told = str(e.value)
    assert {f: f.read_bytes() for f in disk.kept} == disk.kept and {f.name for f in disk.kept} == {'best.safetensors', 'last.safetensors'} and leftovers(out) == []
    assert e.value.code == 1 and 'make room' in told and str(out) in told and '--resume' in told and len(told.splitlines()) == 1, told
    return told


@row(31, 'the disk is full while saving', 'a file beside, fsync, rename; the old one stays')
def full_disk(b):
    with file_limit(-1): told = until_full(b, b.tmp/'run', lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])))
    train_baseline(out=b.tmp/'run', resume=True, device='cpu', num_workers=0, faithful=0)
    train_baseline(b.trained.data, out=b.tmp/'whole', **TINY)
    same_runs(b.tmp/'run', b.tmp/'whole')
    b.monkeypatch.setenv('HAR_FASTAI_CACHE', str(b.tmp/'cache'))
    df, recipe = prepare(b.trained.data, 'grouped', 42), find_recipe('demo', size=32, bs=8)
    with file_limit(100_000), pytest.warns(UserWarning, match='cannot be kept.*make room'): dls = recipe_dls(df, recipe, torch.device('cpu'), 0)
    assert not isinstance(dls.train, CachedDL) and len(dls.train.one_batch()[0]) == 8 and not [f for f in (b.tmp/'cache').rglob('*') if f.is_file()]
    assert isinstance(recipe_dls(df, recipe, torch.device('cpu')).train, CachedDL) # and once there is room, it's used
    return told.replace(str(b.tmp/'run'), 'RUN') + '; resumed, it ends in the same bits'


@row(32, 'saving a model fails half-way', 'nothing changed')
def half_export(b):
    model = model_of(b); net, card = load_bundle(model); before, params = contents(model), {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad(): next(net.parameters()).add_(1.)
    changed = {k: v.clone() for k, v in net.state_dict().items()}
    with file_limit(100_000), pytest.raises(OSError): save_bundle(model, net, card)
    assert contents(model) == before and unlike(net.state_dict(), changed) == []
    assert unlike(load_bundle(model)[0].state_dict(), params) == []
    save_bundle(model, net, card); assert unlike(load_bundle(model)[0].state_dict(), changed) == [] # with room, it is saved
    return 'the old model and its card stay, the network in memory stays, nothing is left over'


@row(33, 'a truncated model file', 'a clear error')
def truncated(b):
    f = model_of(b)/'model.safetensors'; f.write_bytes(f.read_bytes()[:-1000])
    assert 'sha256' in (told := told_by_predict(b, f.parent)) and str(f) in told
    return told.partition(': ')[2].replace(str(f), f.name)


@row(34, 'kill -9 at any moment, then resume', 'resumes; the final weights equal those of an uninterrupted run')
def killed(b):
    res = campaign(b.trained.data, b.tmp, kills=3, seed=1, wait=.5, size=32, epochs=5, bs=8)
    assert res['equal'] and res['half_written'] == [] and res['left_over'] == [] and res['kills'] == 3 and res['files_read_meanwhile'] > 10, res
    return 'killed three times, at random moments: resumed each time, it ends in the same bits; no file was ever half-written'


class Evil:
    def __init__(self, ran): self.ran = ran
    def __reduce__(self): return (open, (str(self.ran), 'w'))


@row(35, 'a hostile pickle given as a model', 'never unpickled; refused with the reason')
def hostile(b):
    ran, said = b.tmp/'ran', ''
    data = dataset(b.tmp/'d')
    for name, save in (('evil.pkl', lambda f: f.write_bytes(pickle.dumps(Evil(ran)))), ('evil.pth', lambda f: torch.save({'w': Evil(ran)}, f)), ('evil.safetensors', lambda f: f.write_bytes(pickle.dumps(Evil(ran))))):
        f = b.tmp/name; save(f)
        told = told_by_predict(b, f); said = said or told
        code, told = b.refuse(cli.har_train, '--data', data, '--out', b.tmp/'run', '--recipe', 'demo', '--device', 'cpu', '--weights', f)
        assert code == 2 and name in told and not ran.exists()
    inside = model_of(b)/'model.safetensors'; shutil.copy(b.tmp/'evil.pth', inside) # under the name of a good file, with a card that vouches for it
    card = json.loads((inside.parent/'model.json').read_text()); card['sha256'] = hashlib.sha256(inside.read_bytes()).hexdigest(); (inside.parent/'model.json').write_text(json.dumps(card))
    told_by_predict(b, inside.parent)
    shutil.copytree(b.trained.run, b.tmp/'resumed'); shutil.copy(b.tmp/'evil.pth', b.tmp/'resumed'/'checkpoint'/'last.safetensors')
    code, told = b.refuse(cli.har_train, '--resume', '--out', b.tmp/'resumed', '--device', 'cpu'); assert code == 2 and 'last.safetensors' in told
    assert not ran.exists()
    torch.load(b.tmp/'evil.pth', weights_only=False); assert ran.exists() # it would have run
    return said.partition(': ')[2].replace(f'{b.tmp}/', '')


@row(36, 'a huge upload, and 20 requests at once, in the app', 'caps on size and pixels, a queue or lock, a clear message, no crash')
def uploads(b):
    "The service, by which the app's limits are the same; the browser's page has tests of its own (test_apps.py), and so has the rest of the service (test_service.py)"
    pytest.importorskip('fastapi')
    from starlette.testclient import TestClient
    from har_fastai.serve.service import Limits, make_service
    files = sorted((b.trained.data/'train').iterdir())[:20]; p = Predictor(b.trained.run)
    probs = p.probs(files)
    with TestClient(make_service(b.trained.run, limits=Limits(bytes=1_000_000))) as client:
        def post(data): return client.post('/predict', files=[('files', ('x', data))])
        huge, bomb = post(bytes(2_000_000)), post(png(20000, 10000))
        assert huge.status_code == 413 and bomb.status_code == 422 and '200 megapixels' in bomb.text, (huge.text, bomb.text)
        with ThreadPoolExecutor(20) as pool: answers = list(pool.map(post, [f.read_bytes() for f in files]))
        assert [a.status_code for a in answers] == [200] * 20
        for a, own in zip(answers, probs): # by probability: two classes may be equally likely
            for t in a.json()['answers'][0]['top']: assert abs(t['probability'] - own[p.vocab.index(t['label'])]) < 1e-5
        assert np.ptp(probs, axis=0).max() > 1e-3 # else every image would have the same answer
        assert client.get('/health').status_code == 200
    return f'{huge.json()["detail"]}; an image of 200 megapixels is refused unread; 20 requests at once are each answered, with their own image\'s probabilities'


@row(37, 'the same seed twice', 'equal, with 0 workers and with 2 (each to itself)')
def same_seed(b):
    ways = {'decoded once': {}, 'one by one, 0 workers': dict(packed=False), 'one by one, 2 workers': dict(packed=False, num_workers=2)}
    df = prepare(b.trained.data, 'grouped', 42)
    def trained(seed, **kw):
        recipe = find_recipe('demo', size=32, bs=16, epochs=2, num_ops=2, erase=.5, seed=seed)
        learn = har_learner(recipe_dls(df, recipe, torch.device('cpu'), **{'num_workers': 0, **kw}), recipe)
        assert isinstance(learn.dls.train, CachedDL) == kw.get('packed', True) and learn.dls.train.fake_l.num_workers == kw.get('num_workers', 0)
        learn.fit_recipe()
        torch.rand(7); np.random.rand(3) # what happens between two runs must not matter
        return {k: v.clone() for k, v in learn.model.state_dict().items()}, [list(map(float, r)) for r in learn.recorder.values]
    for way, kw in ways.items():
        (one, told), (two, again), (other, _) = (trained(seed, **kw) for seed in (1, 1, 2))
        assert unlike(one, two) == [] and told == again, way
        assert unlike(one, other) != [], 'the seed decides nothing'
    return 'equal to the last bit: ' + '; '.join(ways) + '; another seed gives other weights'


@row(38, 'the folder of the data is read-only', 'works: runs and caches go elsewhere')
def read_only(b):
    data = b.tmp/'data'; shutil.copytree(b.trained.data, data); before = contents(data)
    (data/'Training_set.csv').open('a').write('gone.jpg,running\n') # so that there is something to fix
    with sealed(data):
        with pytest.raises(OSError): (data/'x').touch()
        code, told = b.refuse(cli.har_check, data, '--fix')
        assert code == 2 and 'cannot be written' in told and 'fixed.csv' in told
    shutil.copy(b.trained.data/'Training_set.csv', data)
    b.monkeypatch.chdir(b.tmp)
    with sealed(data):
        train_baseline(data, out=b.tmp/'run', **{**TINY, 'epochs': 1})
        cli.har_check([str(data)]); cli.har_evaluate([str(b.tmp/'run'), '--data', str(data), '--faithful', '0']); cli.har_predict([str(data/'test'), '--model', str(b.tmp/'run')])
    assert contents(data) == before
    return 'checked, trained, scored and predicted; nothing was written there'


@contextmanager
def sealed(folder):
    "A folder that may only be read: by its permissions, or for root, whom they don't bind, by a mount"
    if os.geteuid() == 0:
        with mounted(folder, '--bind', folder):
            subprocess.run(['mount', '-o', 'remount,ro,bind', str(folder)], check=True)
            yield
        return
    modes = {f: f.stat().st_mode for f in [folder, *folder.rglob('*')]}
    for f, mode in modes.items(): f.chmod(mode & ~0o222)
    try: yield
    finally:
        for f, mode in modes.items(): f.chmod(mode)


@row(39, 'two runs into one folder at once', 'the second is refused with the reason')
def two_runs(b):
    out = b.tmp/'run'
    with start('har_train', '--data', b.trained.data, '--out', out, *b.trained.options) as p:
        try:
            stop_in_epoch(p, out, 2); before = contents(out)
            code, told = b.refuse(cli.har_train, '--resume', '--out', out, '--device', 'cpu') # frozen, but alive: the folder is taken
            assert code == 2 and 'in use' in told and str(out) in told
            code, other = b.refuse(cli.har_train, '--data', b.trained.data, '--out', out, *b.trained.options)
            assert code == 2 and str(out) in other and contents(out) == before
        finally: p.kill()
    code, unfinished = b.refuse(cli.har_predict, b.trained.data/'test', '--model', out)
    assert code == 2 and 'not finished' in unfinished and '--resume' in unfinished
    return told.partition(': ')[2].replace(str(out), 'RUN')


@row(40, 'a cache of decoded images that is stale, cut short, or of other images', 'noticed by fingerprint, rebuilt')
def stale_cache(b):
    b.monkeypatch.setenv('HAR_FASTAI_CACHE', str(b.tmp/'cache'))
    for i in range(6): image(i).save(b.tmp/f'{i}.png')
    paths = sorted(b.tmp.glob('?.png'))
    def right(p): return all(np.array_equal(p.array(i), np.asarray(open_image(f))) for i, f in enumerate(paths))
    first = cache_images(paths).folder; other = cache_images(paths[::-1]).folder; assert first != other
    def cut(name): (first/name).write_bytes((first/name).read_bytes()[:-10])
    def swap(): shutil.rmtree(first); shutil.copytree(other, first)
    def scramble(): (first/'index.npy').write_bytes(bytes(reversed((first/'index.npy').read_bytes())))
    for harm in (lambda: cut('pixels.bin'), lambda: cut('index.npy'), lambda: cut('pack.json'), lambda: (first/'pack.json').unlink(), swap, scramble):
        harm(); assert not is_whole(first)
        assert right(cache_images(paths)) and is_whole(first)
    image(99).save(paths[2]); assert right(p := cache_images(paths)) and p.folder != first # a stale one
    return 'noticed and made anew: cut short, of other images, with a damaged index, or older than an image'
