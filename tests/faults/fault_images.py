"Faults 1 to 15: images"
import csv, io, re

import numpy as np
import pytest
from PIL import Image

from broken_images import UNREADABLE, flip_bytes, jpeg, make, png
from har_fastai.data.cache import cache_images
from har_fastai.data.checks import check_data, check_har, usable
from har_fastai.data.loaders import HARImage
from har_fastai.data.tables import read_har
from har_fastai.files import sha256_file
from har_fastai.images import ImageError, open_image, preprocess
from har_fastai.predict.predictor import Predictor
from helpers import dataset, image, write_table
from registry import row


def rows_of(data): return [*csv.reader(open(data/'Training_set.csv'))][1:]
def add(data, *names): return write_table(data/'Training_set.csv', rows_of(data) + [(n, 'sitting') for n in names])


def encoded(img, kind, **kw) -> bytes:
    "The bytes of an image file"
    b = io.BytesIO(); img.save(b, kind, **kw)
    return b.getvalue()


def refused_by_opening_and_prediction(b, file) -> None:
    "`open_image` raises one sentence with the name of the file; a predictor skips the file and classifies another image"
    with pytest.raises(ImageError) as e: open_image(file)
    assert str(file) in str(e.value) and len(str(e.value).splitlines()) == 1
    if not file.is_file(): return
    (probs, none), (_, problem) = Predictor(b.trained.run).try_probs([image(1), file])
    assert len(probs) == 15 and none == '' and str(file) in problem


def set_aside(b, number:int, *faults) -> str:
    "Broken images are detected by the check, and when they are opened, in training, evaluation and prediction"
    data = dataset(b.tmp/'d'); bad = {make(data/'train'/f'bad_{i}', f): f for i, f in enumerate(faults)}
    add(data, *(f.name for f in bad))
    df = check_har(read_har(data))
    problems = dict(zip(df.filename, df.problem))
    assert {f for f, p in problems.items() if p} == {f.name for f in bad}
    for f, fault in bad.items():
        assert UNREADABLE[fault][2] in problems[f.name], problems[f.name]
        refused_by_opening_and_prediction(b, f)
    with pytest.warns(UserWarning, match=f'(?s)set aside: {len(bad)} of {24 + len(bad)}.*{next(iter(bad)).name}'):
        assert len(usable(df)) == 24
    found = check_data(data).faults
    assert sorted(found.filename[found.fault == number]) == sorted(f.name for f in bad), found
    for fault in faults: # one run was trained and scored with all of them, beside good images
        assert fault in b.broken_run.bad and not b.broken_run.bad[fault] & b.broken_run.used
    reasons = (problems[f.name].rpartition('as an image: ')[2] for f in bad)
    reasons = (re.sub(r' \((?:or none|\d+ bytes).*\)', '', r) for r in reasons) # these parts depend on the versions of libraries
    return 'set aside before training: ' + '; '.join(dict.fromkeys(reasons))


def everywhere(b, file, colours=None, near=0) -> np.ndarray:
    "The pixels of an image, which are the same for training (with and without a cache), evaluation and prediction"
    a = np.asarray(open_image(file)); p = Predictor(b.trained.run)
    assert a.dtype == np.uint8 and a.ndim == 3 and a.shape[2] == 3
    for other in (HARImage.create(file), cache_images([file], side=4000).array(0)): assert np.array_equal(other, a)
    assert np.array_equal(p.array(file), preprocess(Image.fromarray(a), p.card.size))
    if colours is not None: assert np.abs(a.astype(int) - colours).max() <= near, (a.reshape(-1, 3)[0], colours)
    return a


def same_colour(b, cases:dict[str, tuple[bytes, tuple]]) -> None:
    "Images of one colour are opened in the colour that image viewers show"
    for name, (data, colour) in cases.items():
        f = b.tmp/f'{name}.bin'; f.write_bytes(data)
        assert everywhere(b, f, np.array(colour), near=1).shape[:2] == (8, 8)


def reports(b, number:int, data:bytes, ending='png') -> None:
    "`har_check` lists an image under its number as used"
    d = dataset(b.tmp/f'reports-{number}', n=6); (d/'train'/f'odd.{ending}').write_bytes(data); add(d, f'odd.{ending}')
    found = check_data(d).faults
    listed = zip(found.filename[found.fault == number], found.kept[found.fault == number])
    assert ('odd.' + ending, True) in list(listed), found


def plain(mode, colour) -> Image.Image: return Image.new(mode, (8, 8), colour)


SET_ASIDE = 'found before training; set aside, counted and named'


@row(1, 'zero bytes; HTML or SVG saved as .jpg', SET_ASIDE)
def no_images(b): return set_aside(b, 1, 'zero bytes', 'HTML', 'SVG', 'EPS')


@row(2, 'a truncated JPEG', SET_ASIDE)
def truncated(b): return set_aside(b, 2, 'truncated', 'truncated header')


@row(3, 'changed bytes inside a JPEG', 'accepted; a checksum column, if present, is checked')
def flipped(b):
    data, whole = dataset(b.tmp/'d', n=6), jpeg()
    assert flip_bytes(whole) != whole
    f = data/'train'/'flipped.jpg'; f.write_bytes(whole); sha = sha256_file(f); f.write_bytes(flip_bytes(whole))
    add(data, 'flipped.jpg')
    assert (check_har(read_har(data)).problem == '').all(); everywhere(b, f)
    rows = [(*r, sha if r[0] == f.name else sha256_file(data/'train'/r[0])) for r in rows_of(data)]
    write_table(data/'Training_set.csv', rows, ('filename', 'label', 'sha256'))
    df, found = check_har(read_har(data)), check_data(data).faults
    assert df.filename[df.problem != ''].tolist() == [f.name] == found.filename[found.fault == 3].tolist()
    return f'accepted without a checksum column; with one, set aside: {df.problem.iloc[-1]}'


@row(4, 'a 200-megapixel PNG in 24 kB', 'rejected before decoding, by a limit on the number of pixels')
def bomb(b):
    with pytest.raises(ImageError, match='200 megapixels'): open_image(png(20000, 10000, whole=False)) # has no pixels to decode
    assert len(png(20000, 10000)) < 50_000
    return set_aside(b, 4, '200 megapixels')


@row(5, 'a 100-megapixel PNG', 'rejected by the same limit')
def large(b):
    with pytest.raises(ImageError, match='100 megapixels'): open_image(png(10000, 10000, whole=False))
    with pytest.raises(ImageError) as e: open_image(png(100, 100, whole=False))
    assert 'megapixels' not in str(e.value) # so the other one was rejected because of the limit
    return set_aside(b, 5, '100 megapixels')


@row(6, 'a decompression bomb in a zTXt chunk of a PNG', 'set aside')
def text_bomb(b): return set_aside(b, 6, 'zTXt bomb')


@row(7, 'EXIF orientation 6', 'rotated in training and prediction alike')
def orientation(b):
    img = image(5).resize((40, 20))
    for tag, turns in ((1, 0), (3, 2), (6, 3), (8, 1)):
        exif = Image.Exif(); exif[0x0112] = tag; f = b.tmp/f'{tag}.png'
        img.save(f, exif=exif); everywhere(b, f, np.rot90(np.asarray(img), turns))
        if tag == 6: reports(b, 7, f.read_bytes())
    damaged = encoded(img, 'JPEG', exif=exif).replace(b'MM\0*', b'MX\0*') # unreadable EXIF data, intact pixels
    assert b'MX\0*' in damaged and open_image(damaged).size == (40, 20)
    return 'rotated in training, evaluation and prediction; if the EXIF data are damaged, the image is not rotated'


@row(8, 'CMYK, palette, L, LA and 1-bit images', 'converted to RGB')
def modes(b):
    palette = plain('P', 1); palette.putpalette([0, 0, 0, 200, 10, 20])
    same_colour(b, {'CMYK': (encoded(plain('CMYK', (0, 255, 255, 0)), 'TIFF'), (255, 0, 0)),
                    'palette': (encoded(palette, 'PNG'), (200, 10, 20)),
                    'L': (encoded(plain('L', 100), 'PNG'), (100,) * 3),
                    'LA': (encoded(plain('LA', (9, 255)), 'PNG'), (9,) * 3),
                    '1-bit': (encoded(plain('1', 1), 'PNG'), (255,) * 3)})
    reports(b, 8, encoded(palette, 'PNG'))
    return 'converted to RGB, with the colours that image viewers show'


@row(9, 'a transparent RGBA image', 'composited on white')
def transparent(b):
    clear = encoded(plain('RGBA', (255, 0, 0, 0)), 'PNG')
    same_colour(b, {'clear': (clear, (255,) * 3),
                    'fifth': (encoded(plain('RGBA', (255, 0, 0, 51)), 'PNG'), (255, 204, 204)),
                    'LA': (encoded(plain('LA', (9, 0)), 'PNG'), (255,) * 3)})
    reports(b, 9, clear)
    return 'composited on white; the hidden colours of transparent pixels have no effect'


@row(10, 'a 16-bit PNG', 'rescaled')
def deep(b):
    def grey16(value): return encoded(Image.fromarray(np.full((8, 8), value, np.uint16)), 'PNG')
    same_colour(b, {'black': (grey16(0), (0,) * 3), 'grey': (grey16(32896), (128,) * 3), 'white': (grey16(65535), (255,) * 3)})
    reports(b, 10, grey16(32896))
    return 'rescaled: 0, 32,896 and 65,535 become 0, 128 and 255'


@row(11, 'a floating-point TIFF', 'rescaled, or rejected with the reason')
def floats(b):
    ramp = encoded(Image.fromarray(np.tile(np.linspace(-2, 5, 32, dtype=np.float32), (4, 1))), 'TIFF')
    (b.tmp/'ramp.tif').write_bytes(ramp)
    grey = everywhere(b, b.tmp/'ramp.tif')[0, :, 0].astype(int)
    assert grey[0] == 0 and grey[-1] == 255 and (np.diff(grey) > 0).all()
    reports(b, 11, ramp, 'tif')
    return 'rescaled to 0–255; one that contains NaN is ' + set_aside(b, 11, 'float TIFF of NaN')


@row(12, 'an animated GIF', 'its first frame')
def animation(b):
    gif = encoded(plain('RGB', (250, 0, 0)), 'GIF', save_all=True, append_images=[plain('RGB', (0, 0, 250))])
    same_colour(b, {'gif': (gif, (250, 0, 0))}); reports(b, 12, gif, 'gif')
    return 'the first frame'


@row(13, 'a PNG named .jpg', 'decoded')
def misnamed(b):
    image(3).save(b.tmp/'a.jpg', 'PNG'); everywhere(b, b.tmp/'a.jpg', np.asarray(image(3)))
    reports(b, 13, (b.tmp/'a.jpg').read_bytes(), 'jpg')
    return 'decoded as a PNG'


@row(14, 'images of 1×1 and 1×4000 pixels', 'loaded, with a warning')
def tiny(b):
    data = dataset(b.tmp/'d', n=6)
    for w, h in ((1, 1), (1, 4000)):
        f = data/'train'/f'{w}x{h}.png'
        Image.new('RGB', (w, h), 'red').save(f); everywhere(b, f)
    add(data, '1x1.png', '1x4000.png')
    with pytest.warns(UserWarning, match='very small or narrow.*2, .*1x1.png'): df = check_har(read_har(data))
    found = check_data(data).faults
    assert (df.problem == '').all() and found.filename[found.fault == 14].tolist() == ['1x1.png', '1x4000.png']
    return 'loaded, with the warning: very small or narrow images: 2'


@row(15, 'a folder named x.jpg; a loop of symbolic links', 'set aside')
def no_files(b): return set_aside(b, 15, 'folder', 'link loop')
