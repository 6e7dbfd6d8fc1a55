"""Fuzz test of `open_image`: each of thousands of damaged files must give an image or an `ImageError`, within limits of time and memory.

    python benchmarks/fuzz_images.py --data DIR [--n 20000] [--keep DIR]

The files are synthetic (JPEG, PNG, GIF, WebP, TIFF, BMP of many modes) and, with --data, photographs from its train folder. Each
input is mutated with its own seed, so it can be reproduced. Workers have a limit on their address space and an alarm after 2 s of
CPU time (wall-clock time would depend on other processes), which also ends a hang in C code. Prints one JSON line; --keep saves
the inputs that broke a rule. Limitations: no coverage feedback, and no files above about 100 kB.
"""
import argparse, collections, faulthandler, io, json, multiprocessing as mp, os, random, resource, signal, sys, time, traceback, warnings
from pathlib import Path

import numpy as np
from PIL import Image

from har_fastai.images import MAX_PIXELS, ImageError, open_image

SECONDS, MEMORY = 2, 2 * 2**30 # processor time per image; address space of a worker, in bytes
NUMBERS = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff]


def encode(img, kind, **kw) -> bytes:
    b = io.BytesIO(); img.save(b, kind, **kw)
    return b.getvalue()


def drawn() -> list[bytes]:
    "Intact files of many formats and modes"
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 4), dtype=np.uint8)
    img = Image.fromarray(noise).resize((48, 36), Image.Resampling.BICUBIC); rgb = img.convert('RGB')
    frames = [rgb.rotate(a) for a in (90, 180)]
    exif = Image.Exif(); exif[0x0112] = 6; exif[0x010e] = 'words'
    deep = Image.fromarray(np.linspace(0, 65535, 48 * 36).reshape(36, 48).astype(np.uint16))
    real = Image.fromarray(np.linspace(-1, 2, 48 * 36, dtype=np.float32).reshape(36, 48))
    grey, cmyk, palette, bilevel = (rgb.convert(mode) for mode in ('L', 'CMYK', 'P', '1'))
    files = [encode(rgb, 'JPEG', exif=exif), encode(rgb, 'JPEG', progressive=True, quality=95)]
    files += [encode(i, 'JPEG') for i in (grey, cmyk)]
    files += [encode(i, 'PNG') for i in (rgb, img, grey, bilevel, palette, rgb.convert('LA'), deep)] + [encode(rgb, 'PNG', exif=exif)]
    files += [encode(palette, 'GIF'), encode(frames[0], 'GIF', save_all=True, append_images=frames, transparency=0)]
    files += [encode(rgb, 'WEBP'), encode(img, 'WEBP', lossless=True)]
    files += [encode(frames[0], 'WEBP', save_all=True, append_images=frames), encode(rgb, 'WEBP', exif=exif)]
    files += [encode(rgb, 'TIFF', compression=c) for c in (None, 'tiff_lzw', 'tiff_adobe_deflate', 'packbits', 'jpeg')]
    files += [encode(i, 'TIFF') for i in (img, deep, real, cmyk, grey)] + [encode(bilevel, 'TIFF', compression='group4')]
    return files + [encode(rgb, 'BMP'), encode(palette, 'BMP')]


def real(data:str, n:int=60) -> list[bytes]:
    "The smallest files of a sample of photographs"
    files = sorted((Path(data)/'train').iterdir())
    sample = random.Random(0).sample(files, min(len(files), 4 * n))
    return [f.read_bytes() for f in sorted(sample, key=lambda f: f.stat().st_size)[:n]]


def mutated(pool:list[bytes], i:int) -> bytes:
    "Input number `i`: a file with 1 to 8 mutations"
    r = random.Random(i)
    a = bytearray(r.choice(pool))
    for _ in range(r.choice([1, 1, 1, 2, 4, 8])):
        if not a: break
        at = r.randrange(min(len(a), 400)) if r.random() < .6 else r.randrange(len(a)) # often in the header, which controls the decoder
        what, size = r.randrange(8), r.choice([1, 2, 4, 8, 32])
        if what < 2: a[at] ^= 1 << r.randrange(8)
        elif what == 2: a[at:at + size] = r.randbytes(size)
        elif what == 3: a[at:at + 4] = r.choice(NUMBERS).to_bytes(4, r.choice(['big', 'little']))
        elif what == 4: a[at:at + 2] = (r.choice(NUMBERS) & 0xffff).to_bytes(2, r.choice(['big', 'little']))
        elif what == 5: del a[at:at + size]
        elif what == 6: a[at:at] = a[at:at + size * 4] * r.choice([1, 2, 16])
        elif r.random() < .5: del a[at:]
        else: b = r.choice(pool); k = r.randrange(len(b)); a[at:] = b[k:] # the start of one file, the end of another
    return bytes(a)


def attempt(data:bytes) -> str:
    "'image', 'refused', or a description of the broken rule"
    try: img = open_image(data)
    except ImageError as e:
        if isinstance(e.__cause__, MemoryError): return 'it exceeded the memory limit'
        return 'refused' if len(str(e).splitlines()) == 1 else f'a message of several lines: {e}'
    except BaseException: return traceback.format_exc(limit=-3)
    if img.mode != 'RGB' or img.width * img.height > MAX_PIXELS: return f'an image of mode {img.mode} and size {img.size}'
    return 'image'


def held() -> int:
    "Address space of this process, in bytes; 0 if the system does not report it"
    try: return int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    except OSError: return 0


def work(pool, todo, at, out, memory=MEMORY, seconds=SECONDS):
    "Try the inputs of a range, and send the outcome of each"
    cap = held() + memory # in addition to the memory of the process that it was forked from
    resource.setrlimit(resource.RLIMIT_AS, (cap, cap)); resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2) # messages of C libraries
    warnings.simplefilter('ignore'); faulthandler.disable()
    for i in todo:
        at.value = i; data = mutated(pool, i)
        signal.setitimer(signal.ITIMER_PROF, seconds); start = time.process_time()
        got = attempt(data)
        used = time.process_time() - start; signal.setitimer(signal.ITIMER_PROF, 0)
        out.send((i, got, used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def fuzz(pool:list[bytes], n:int, workers:int=1, first:int=0, **limits) -> dict:
    "The outcomes of `n` inputs: counts, the slowest input, peak memory, and the broken rules"
    counts, broken, slowest, largest = collections.Counter(), {}, (0, -1), 0
    context = mp.get_context('fork')
    for w in range(workers): # each has a range, which continues in a new process after a crash
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
            end = signal.Signals(-p.exitcode).name if p.exitcode < 0 else p.exitcode
            broken[at.value] = f'the process ended with {end}'; counts['broken'] += 1
            todo = range(at.value + workers, first + n, workers)
    return dict(inputs=sum(counts.values()), images=counts['image'], refused=counts['refused'], broken=broken,
                slowest_s=round(slowest[0], 3), slowest=slowest[1], peak_mb=round(largest / 1024))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='folder of the Kaggle data set, whose photographs are mutated as well')
    p.add_argument('--n', type=int, default=20_000)
    p.add_argument('--first', type=int, default=0, help='number of the first input')
    p.add_argument('--keep', help='folder for inputs that broke a rule')
    a = p.parse_args()
    pool = drawn() + (real(a.data) if a.data else [])
    start = time.perf_counter()
    res = fuzz(pool, a.n, first=a.first)
    for i, why in res['broken'].items():
        print(f'input {i}: {why}', file=sys.stderr)
        if not a.keep: continue
        Path(a.keep).mkdir(parents=True, exist_ok=True)
        (Path(a.keep)/f'{i}.bin').write_bytes(mutated(pool, i))
    kinds = collections.Counter(w.strip().splitlines()[-1][:80] for w in res['broken'].values())
    res |= dict(broken=len(res['broken']), kinds=dict(kinds))
    print(json.dumps(dict(what='damaged images given to the opener', **res, real=bool(a.data), limit_s=SECONDS,
                          limit_mb=MEMORY // 2**20, seconds=round(time.perf_counter() - start))))


if __name__ == '__main__': main()
