"Image files, each broken in one way"
import io, os, struct, zlib
from pathlib import Path

import numpy as np
from PIL import Image

from helpers import image


def jpeg(seed:int=1, size:int=64) -> bytes:
    "The bytes of a good JPEG"
    b = io.BytesIO()
    image(seed, size).save(b, 'JPEG', quality=90)
    return b.getvalue()


def chunk(kind:bytes, data:bytes) -> bytes:
    "A chunk of a PNG file"
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(width:int, height:int, before:bytes=b'', whole:bool=True) -> bytes:
    "A white 1-bit PNG, written chunk by chunk; with `whole=False` it has no pixel data"
    row = b'\0' + b'\xff' * ((width + 7) // 8)
    pixels = zlib.compress(row * height, 9) if whole else b'no pixels here'
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + before + chunk(b'IDAT', pixels) + chunk(b'IEND', b'')


def flip_bytes(data:bytes, n:int=6) -> bytes:
    "The same JPEG with some bytes of its pixels changed"
    a = bytearray(data)
    for i in np.random.default_rng(0).integers(len(a) // 2, len(a) - 20, n): a[i] = (a[i] + 1) % 255 # 255 would begin a marker
    return bytes(a)


def text_bomb() -> bytes:
    "A small PNG with a text chunk that decompresses to 40 MB"
    return png(20, 20, chunk(b'zTXt', b'Comment\0\0' + zlib.compress(bytes(40_000_000), 9)))


HTML = '<!doctype html><title>404</title>'
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def not_finite(path:Path): Image.fromarray(np.full((20, 20), np.nan, np.float32)).save(path, 'TIFF')
def folder(path:Path): path.mkdir()
def link_loop(path:Path): os.symlink(path.name, path)


# fault -> (file extension, function that creates the file, text that the reason must contain)
UNREADABLE = {
    'zero bytes':         ('jpg', lambda p: p.write_bytes(b''), 'it is empty'),
    'HTML':               ('jpg', lambda p: p.write_text(HTML), 'not an image'),
    'SVG':                ('png', lambda p: p.write_text(SVG), 'not an image'),
    'EPS':                ('jpg', lambda p: Image.new('RGB', (9, 9)).save(p, 'EPS'), 'not an image'), # a program for Ghostscript
    'truncated':          ('jpg', lambda p: p.write_bytes(jpeg()[:len(jpeg()) // 2]), 'truncated'),
    'truncated header':   ('jpg', lambda p: p.write_bytes(jpeg()[:300]), 'runcated'),
    '200 megapixels':     ('png', lambda p: p.write_bytes(png(20000, 10000)), '200 megapixels'),
    '100 megapixels':     ('png', lambda p: p.write_bytes(png(10000, 10000)), '100 megapixels'),
    'zTXt bomb':          ('png', lambda p: p.write_bytes(text_bomb()), 'too large'),
    'float TIFF of NaN':  ('tif', not_finite, 'not finite'),
    'folder':             ('jpg', folder, 'not a file'),
    'link loop':          ('jpg', link_loop, 'not a file'),
}


def make(path:Path, fault:str) -> Path:
    "Create a broken image at `path` with the extension of its format; return the file"
    ending, maker, _ = UNREADABLE[fault]
    file = path.with_suffix(f'.{ending}')
    maker(file)
    return file
