"Draw the images of the site: python .ci/images.py. They are the social card (1200 × 630 px) and the image of the 404 page."
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from har_fastai.drawing.dataset import draw_action

images = Path(__file__).resolve().parent.parent/'nbs'/'images'
CARD = dict(running=9, hugging=6, dancing=1, cycling=1, laughing=9, drinking=1, using_laptop=10, eating=0, sleeping=3) # seeds
BACKGROUND = '#0b2a3f'


def drawing(label, size):
    "The drawing of an action, with the seed in `CARD`"
    return draw_action(label, np.random.default_rng(CARD[label]), size)


def card():
    "The social card: the name of the library beside nine drawings"
    fig = plt.figure(figsize=(12, 6.3), dpi=100, facecolor=BACKGROUND)
    for i, label in enumerate(CARD):
        ax = fig.add_axes([.475 + .175 * (i % 3), 1 - (i // 3 + 1) / 3, .175, 1 / 3]); ax.axis('off')
        ax.imshow(drawing(label, 210), aspect='auto')
    fig.text(.045, .66, 'har_fastai', color='white', fontsize=54, fontweight='bold')
    fig.text(.047, .40, 'What is the person\nin this image doing?', color='#9fd0f0', fontsize=26, linespacing=1.4)
    subtitle = 'Human action recognition in still images\nwith fastai and reproducible results'
    fig.text(.047, .12, subtitle, color='#c9d6df', fontsize=16, linespacing=1.5)
    data = io.BytesIO(); fig.savefig(data, facecolor=BACKGROUND)
    return Image.open(data).convert('RGB')


if __name__ == '__main__':
    for name, image in dict(card=card(), asleep=drawing('sleeping', 400)).items():
        image.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(images/f'{name}.png', optimize=True)
