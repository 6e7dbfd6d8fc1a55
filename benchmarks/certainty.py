"""Accuracy of the predictions of a model by their probability in words (very likely, probably, perhaps, doubtful).

Reads the predictions of labelled images that the model was not trained on, from `har_evaluate --csv`. For the evaluated model of the model card and the
photographs of the course report:

    har_evaluate evaluated/lite2 --data photos --split tail --csv lite2.csv
    python certainty.py lite2.csv --model lite2 >> results.jsonl

Prints one JSON line with the number of images, the accuracy and its 95 % confidence interval (Wilson) for each word.
"""
import argparse
import json

import pandas as pd

from har_fastai.evaluate.metrics import wilson_interval
from har_fastai.predict.bundle import read_card
from har_fastai.predict.outputs import CERTAINTY

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('csv', help='file of har_evaluate --csv')
    p.add_argument('--model', default='lite2', help='name of the model')
    a = p.parse_args()
    preds, vocab = pd.read_csv(a.csv), read_card(a.model).vocab
    best = preds[[f'p_{v}' for v in vocab]].max(axis=1)
    words = best.map(lambda p: next(word for least, word in CERTAINTY.items() if p >= least))
    rows = {}
    for word in CERTAINTY.values():
        right = (preds.predicted == preds.label)[words == word]
        low, high = wilson_interval(right.sum(), len(right))
        rows[word] = dict(n=len(right), accuracy=round(float(right.mean()), 4), low=round(float(low), 4), high=round(float(high), 4))
    print(json.dumps(dict(what='accuracy by certainty', model=a.model, scored=len(preds), words=rows)))
