"""Give the opener of images thousands of damaged files: it must answer each with an image or a `ImageError`, in time and within its memory

    python benchmarks/fuzz_images.py --data DIR [--n 20000] [--keep DIR]

The files are drawn (JPEG, PNG, GIF, WebP, TIFF, BMP of many modes) and, with --data, real ones from its train folder; each is mutated from a
seed of its own, so that any input can be made again. Workers have a cap on their address space and an alarm of 2 s of processor time
(wall-clock time would measure the machine's other work), whose signal ends the process: a hang inside C is seen as well.
It prints one JSON line. --keep writes the inputs that broke a rule to a folder.
What it does not know: formats' deeper structures (no coverage feedback), and files over about 100 kB.
"""
import argparse, collections, faulthandler, io, json, multiprocessing as mp, os, random, resource, signal, sys, time, traceback, warnings
from pathlib import Path

import numpy as np
from PIL import Image

from har_fastai.images import MAX_PIXELS, ImageError, open_image

SECONDS, MEMORY = 2, 2 * 2**30  # of processor time an image; bytes of address space a worker
NUMBERS = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff]


def encode(img, kind, **kw) -> bytes:
    b = io.BytesIO(); img.save(b, kind, **kw)
    return b.getvalue()


def drawn() -> list[bytes]:
    "Good files of many kinds and modes"
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 4), dtype=np.uint8)
    img = Image.fromarray(noise).resize((48, 36), Image.Resampling.BICUBIC); rgb = img.convert('RGB')
    frames = [rgb.rotate(a) for a in (90, 180)]
    exif = Image.Exif(); exif[0x0112] = 6; exif[0x010e] = 'words'
    deep = Image.fromarray(np.linspace(0, 65535, 48 * 36).reshape(36, 48).astype(np.uint16)); real = Image.fromarray(np.linspace(-1, 2, 48 * 36, dtype=np.float32).reshape(36, 48))
    files = [encode(rgb, 'JPEG', exif=exif), encode(rgb, 'JPEG', progressive=True, quality=95), encode(rgb.convert('L'), 'JPEG'), encode(rgb.convert('CMYK'), 'JPEG')]
    files += [encode(i, 'PNG') for i in (rgb, img, rgb.convert('L'), rgb.convert('1'), rgb.convert('P'), rgb.convert('LA'), deep)] + [encode(rgb, 'PNG', exif=exif)]
    files += [encode(rgb.convert('P'), 'GIF'), encode(frames[0], 'GIF', save_all=True, append_images=frames, transparency=0)]
    files += [encode(rgb, 'WEBP'), encode(img, 'WEBP', lossless=True), encode(frames[0], 'WEBP', save_all=True, append_images=frames), encode(rgb, 'WEBP', exif=exif)]
    files += [encode(rgb, 'TIFF', compression=c) for c in (None, 'tiff_lzw', 'tiff_adobe_deflate', 'packbits', 'jpeg')]
    files += [encode(i, 'TIFF') for i in (img, deep, real, rgb.convert('CMYK'), rgb.convert('L'))] + [encode(rgb.convert('1'), 'TIFF', compression='group4')]
    return files + [encode(rgb, 'BMP'), encode(rgb.convert('P'), 'BMP')]


def real(data:str, n:int=60) -> list[bytes]:
    "The smallest of some real images"
    files = sorted((Path(data)/'train').iterdir())
    return [f.read_bytes() for f in sorted(random.Random(0).sample(files, min(len(files), 4 * n)), key=lambda f: f.stat().st_size)[:n]]


def mutated(pool:list[bytes], i:int) -> bytes:
    "Input number i"
    r = random.Random(i)
    a = bytearray(r.choice(pool))
    for _ in range(r.choice([1, 1, 1, 2, 4, 8])):
        if not a: break
        at = r.randrange(min(len(a), 400)) if r.random() < .6 else r.randrange(len(a))  # headers hold what steers a decoder
        what, size = r.randrange(8), r.choice([1, 2, 4, 8, 32])
        if what < 2: a[at] ^= 1 << r.randrange(8)
        elif what == 2: a[at:at + size] = r.randbytes(size)
        elif what == 3: a[at:at + 4] = r.choice(NUMBERS).to_bytes(4, r.choice(['big', 'little']))
        elif what == 4: a[at:at + 2] = (r.choice(NUMBERS) & 0xffff).to_bytes(2, r.choice(['big', 'little']))
        elif what == 5: del a[at:at + size]
        elif what == 6: a[at:at] = a[at:at + size * 4] * r.choice([1, 2, 16])
        elif r.random() < .5: del a[at:]
        else: b = r.choice(pool); k = r.randrange(len(b)); a[at:] = b[k:]  # the head of one, the tail of another
    return bytes(a)


def attempt(data:bytes) -> str:
    "'image', 'refused', or what went against the rules"
    try: img = open_image(data)
    except ImageError as e:
        if isinstance(e.__cause__, MemoryError): return 'it took all of its memory'
        return 'refused' if len(str(e).splitlines()) == 1 else f'a message of several lines: {e}'
    except BaseException: return traceback.format_exc(limit=-3)
    if img.mode != 'RGB' or img.width * img.height > MAX_PIXELS: return f'an image of mode {img.mode} and size {img.size}'
    return 'image'


def held() -> int:
    "Bytes of address space that this process has; 0 where the system doesn't say"
    try: return int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    except OSError: return 0


def work(pool, todo, at, out, memory=MEMORY, seconds=SECONDS):
    "Try the inputs of a range, and say for each what came of it"
    cap = held() + memory  # beside what the process had before, which is much where it was forked from a large one
    resource.setrlimit(resource.RLIMIT_AS, (cap, cap)); resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what C libraries say
    warnings.simplefilter('ignore'); faulthandler.disable()
    for i in todo:
        at.value = i; data = mutated(pool, i)
        signal.setitimer(signal.ITIMER_PROF, seconds); start = time.process_time()
        got = attempt(data)
        used = time.process_time() - start; signal.setitimer(signal.ITIMER_PROF, 0)
        out.send((i, got, used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def fuzz(pool:list[bytes], n:int, workers:int=1, first:int=0, **limits) -> dict:
    "The outcomes of n inputs: counts, the slowest, the largest, and what broke a rule"
    counts, broken, slowest, largest = collections.Counter(), {}, (0, -1), 0
    context = mp.get_context('fork')
    for w in range(workers):  # one after the other at heart: each is a range that goes on after a death
        todo = range(first + w, first + n, workers)
        while len(todo):
            at, (recv, send) = context.Value('q', -1), context.Pipe(duplex=False)
            p = context.Process(target=work, args=(pool, todo, at, send), kwargs=limits); p.start(); send.close()
            try:
                while True:
                    i, got, used, rss = recv.recv()
                    kind = got if got in ('image', 'refused') else 'broken'
                    counts[kind] += 1; slowest, largest = max(slowest, (used, i)), max(largest, rss)
                    if kind == 'broken': broken[i] = got
            except EOFError: p.join()
            if p.exitcode == 0: break
            broken[at.value] = f'the process ended with {signal.Signals(-p.exitcode).name if p.exitcode < 0 else p.exitcode}'; counts['broken'] += 1
            todo = range(at.value + workers, first + n, workers)
    return dict(inputs=sum(counts.values()), images=counts['image'], refused=counts['refused'], broken=broken, slowest_s=round(slowest[0], 3), slowest=slowest[1], peak_mb=round(largest / 1024))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='folder of the real data set; its images are mutated as well')
    p.add_argument('--n', type=int, default=20_000)
    p.add_argument('--first', type=int, default=0, help='number of the first input')
    p.add_argument('--keep', help='folder for the inputs that broke a rule')
    a = p.parse_args()
    pool = drawn() + (real(a.data) if a.data else [])
    start = time.perf_counter()
    res = fuzz(pool, a.n, first=a.first)
    for i, why in res['broken'].items():
        print(f'input {i}: {why}', file=sys.stderr)
        if a.keep: Path(a.keep).mkdir(parents=True, exist_ok=True); (Path(a.keep)/f'{i}.bin').write_bytes(mutated(pool, i))
    kinds = collections.Counter(w.strip().splitlines()[-1][:80] for w in res['broken'].values())
    print(json.dumps(dict(what='damaged images given to the opener', **{**res, 'broken': len(res['broken']), 'kinds': dict(kinds)}, real=bool(a.data), limit_s=SECONDS, limit_mb=MEMORY // 2**20,
                          seconds=round(time.perf_counter() - start))))


if __name__ == '__main__': main()
