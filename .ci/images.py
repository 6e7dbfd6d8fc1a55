"Draw the images of the site: python .ci/images.py. The social card (1200 by 630 px) and the one of the 404 page."
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from har_fastai.drawing.dataset import draw_action

images = Path(__file__).resolve().parent.parent/'nbs'/'images'
CARD = dict(running=9, hugging=6, dancing=1, cycling=1, laughing=9, drinking=1, using_laptop=10, eating=0, sleeping=3)


def drawing(label, size): return draw_action(label, np.random.default_rng(CARD[label]), size)


def card():
    fig = plt.figure(figsize=(12, 6.3), dpi=100, facecolor='#0b2a3f')
    for i, label in enumerate(CARD):
        ax = fig.add_axes([.475 + .175 * (i % 3), 1 - (i // 3 + 1) / 3, .175, 1 / 3]); ax.axis('off')
        ax.imshow(drawing(label, 210), aspect='auto')
    fig.text(.045, .66, 'har_fastai', color='white', fontsize=54, fontweight='bold')
    fig.text(.047, .40, 'What is the person\nin this image doing?', color='#9fd0f0', fontsize=26, linespacing=1.4)
    fig.text(.047, .12, 'Still-image action recognition with fastai,\nand numbers you can believe', color='#c9d6df', fontsize=16, linespacing=1.5)
    data = io.BytesIO(); fig.savefig(data, facecolor='#0b2a3f')
    return Image.open(data).convert('RGB')


if __name__ == '__main__':
    for name, image in dict(card=card(), asleep=drawing('sleeping', 400)).items():
        image.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(images/f'{name}.png', optimize=True)
