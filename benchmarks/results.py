"""Render RESULTS.md from results.jsonl: all recorded results, including failed experiments, with their settings and machine.

Append the JSON line that a script prints to results.jsonl and run this script (or `make readme`). Nothing in RESULTS.md is
written by hand. A folder as argument is the destination.
"""
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MACHINE = ('threads', 'gpu', 'torch', 'python', 'torchvision', 'fastai', 'pillow', 'har_fastai') # where a result was measured
TITLES = {
    'reproduced': 'Recipes, tested on the last 20 % of rows',
    'experiment': 'Experiments with recipes',
    'explored': 'Changes of recipes, evaluated on images that are not used for published scores',
    'shipped': 'The included model baseline',
    'lite0': 'The former included model lite0',
    'lite2': 'The included model lite2',
    'average of several models': 'Average of several models',
    'time of a step of fine-tuning, other / har_fastai': 'Time of a step of fine-tuning: other / har_fastai',
    'images without people or action: AUROC': 'Images without people or action: AUROC of unsure predictions',
    'probe: macro-F1 with few images of each class': 'Linear probe with few images of each class: macro-F1',
    'probe: AUROC for actions that it was not trained on': 'Linear probe: AUROC for actions that it was not trained on',
    "seconds to a valid macro-F1: report's recipe at 256 px in the plain loop / ours":
        'Training time to a validation macro-F1: plain PyTorch with the recipe of the report at 256 px / har_fastai',
    'time of a prediction, other / Predictor': 'Time of a prediction: other / Predictor',
    'included models: time of a prediction, other / default': 'Included models, time of a prediction: other / default model',
    'time of a training epoch, other / packed': 'Time of a training epoch: other / cached images',
    'images fed per second, packed / DataBlock': 'Images loaded per second: cached images / DataBlock',
    'macro-F1, packed - DataBlock': 'Macro-F1: cached images − DataBlock',
    'share of 95 % confidence intervals that hold the truth': 'Coverage of 95 % confidence intervals',
    'distributed: macro-F1, two processes - one': 'Macro-F1: training in two processes − in one',
    'poses alone: macro-F1': 'Poses alone: macro-F1',
    'pose extraction, images per second': 'Pose extraction: images per second',
    'leak: macro-F1 of the last 20 % of rows': 'Leakage: macro-F1 on the last 20 % of rows',
    'kills of one run, and what became of it': 'Interruption and resumption of a run',
    'damaged images given to the opener': 'Fuzz test of open_image with damaged files',
    'timelines of clips, against single frames': 'Timelines of clips, compared with single frames',
    'clips: features, against smoothed probabilities':
        'Timelines of clips from features, compared with smoothed probabilities',
    'training from scratch with and without pretraining': 'Training from scratch with and without pretraining',
    'peak memory of har_predict, many images / few': 'Peak memory of har_predict: many images / few',
    'what each part of a recipe gains': 'Ablation of a recipe',
    'the shape in which images are scored': 'Resize rules in evaluation',
    'photographs: trained with drawings - without': 'Training on drawings as well: scores on photographs',
    '8-bit integers against 32-bit numbers': '8-bit integers against 32-bit numbers, exported models',
    'audit: labels flipped at random': 'Audit: training labels flipped at random',
    'labels to a macro-F1, random / chosen': 'Choice of images to label: labels to a macro-F1, random / chosen',
    'page in a browser against Python': 'The exported page in a browser, compared with Python',
    'evaluation and report, over the forward passes alone': 'Time of evaluation and report / forward passes alone',
} # headings in place of `what`
LABELS = {
    'one_interval': 'one process, 95 % CI of the mean', 'all_images': 'all images', 'with_person': 'images with a person',
    'mean_features': 'averaged features, width chosen on training clips',
    'same_width': 'averaged features, same width', 'features_width': 'width for features, seconds', 'without': 'from random weights',
    'pretrained': 'from pretrained weights', 'pretrain_epochs': 'epochs without labels', 'unlabelled': 'images without a label',
    'float32_vs_frozen': 'PyTorch, float32', 'bfloat16_vs_frozen': 'PyTorch, bfloat16',
    'depthwise_vs_frozen': 'with own depthwise gradients', 'memory_vs_frozen': 'and memory reused',
    'alone': 'each model', 'valid_loss': 'validation loss',
    'only_with': 'images that only the training with drawings gets right',
    'only_without': 'images that only the training without gets right',
    'other_seeds_without': 'macro-F1 minus that of other seeds without drawings', 'accuracy_with': 'accuracy with drawings',
    'difference_bootstrap': 'difference, bootstrap alone', 'same_class': 'share of equal predictions',
    'same_unsure': 'share of equal verdicts on unsure',
    'at_threshold_0_5': 'images with a person at threshold 0.5', 'found_at_0_5': 'person found at threshold 0.5',
    'relabelled_right': 'share of right suggestions for flipped labels found',
    'agreement': 'share of equal predictions on training images', 'checked': 'training images compared',
    'per_class': 'images of each class', 'draws': 'random draws', 'similarity': 'by similarity', 'probability': 'by probability',
    'mirror': 'test-time augmentation', 'struck': 'interrupted in', 'least': 'minimum', 'most': 'maximum', 'n': 'images evaluated',
    'scored': 'images evaluated', 'n_valid': 'validation images', 'trained': 'training images', 'bs': 'batch size',
    'nll': 'negative log-likelihood', 'top3': 'top-3 accuracy', 'low': '95 % CI low', 'high': '95 % CI high',
    'goal': 'macro-F1 to reach', 'report_seconds': 'seconds, plain PyTorch (calculated)', 'seconds': 'seconds',
    'plain_images_per_s': 'images per second of plain PyTorch, before and after', 'setup_seconds': 'seconds to prepare the data',
    'curve': 'seconds and macro-F1 of each epoch', 'packed': 'cached images', 'one_by_one': 'DataBlock', 'datablock': 'DataBlock',
    'vs_plain': 'compared with plain PyTorch', 'vs_datablock': 'compared with DataBlock', 'plain': 'plain PyTorch',
    'one_p50_ms': 'one image, median, ms', 'many_images_per_s': 'many images, images per second', 'cold_start_s': 'whole process, s',
    'load_1min': 'load average over 1 minute', 'honest': 'disjoint split', 'random': 'random split',
    'random_seen': 'random split, test images in the training set', 'random_unseen': 'random split, other test images',
    'share_seen': 'share of test images in the training set', 'in_training': 'random split, score in training',
    'kills': 'interruptions', 'half_written': 'half-written files', 'files_read_meanwhile': 'files read meanwhile',
    'left_over': 'temporary files left', 'equal': 'identical results', 'unequal': 'files that differ', 'real': 'photographs',
    'inputs': 'files', 'refused': 'rejected', 'broken': 'crashes, timeouts and other errors', 'kinds': 'kinds of these errors',
    'slowest': 'number of the slowest file', 'slowest_s': 'slowest file, s', 'peak_mb': 'peak memory, MB', 'limit_s': 'limit, s',
    'limit_mb': 'memory limit, MB', 'room': 'drift', 'width': 'smoothing, s', 'single': 'single frames', 'smoothed': 'smoothed',
    'no_short': 'minimum duration', 'both': 'smoothed, with minimum duration', 'surplus': 'predicted minus true segments',
    'stills': 'accuracy on the still images', 'known_cuts': 'accuracy with known segments', 'keep_less_squash': 'keep minus squash',
    'ratio_later': 'ratio in the second half', 'few': 'few images', 'many': 'many images', 'few_mb': 'few images, MB',
    'many_mb': 'many images, MB', 'few_later_mb': 'few images, second half, MB', 'many_later_mb': 'many images, second half, MB',
    'one_vs_learner': 'one image, Learner.predict', 'one_vs_eager': 'one image, eager PyTorch',
    'one_vs_onnx': 'one image, ONNX Runtime', 'many_vs_batches': 'many images, eager PyTorch in batches',
    'many_vs_batches_network': 'many images, eager PyTorch, already decoded', 'f1': 'F1', 'weighted_f1': 'weighted F1',
    'accuracy_change': '95 % CI of the change in accuracy', 'f1_change': '95 % CI of the change in F1',
    'valid': 'validation macro-F1', 'valid_macro_f1_of_last_3_epochs': 'validation macro-F1 of the last 3 epochs',
    'valid macro f1 of last 3 epochs': 'validation macro-F1 of the last 3 epochs', 'gpu': 'GPU',
    'macro_f1_bootstrap': 'macro-F1, bootstrap alone', 'first': 'default', 'one': 'one image', 'start': 'whole process',
    'one_ms': 'one image, median, ms', 'start_s': 'whole process, s', 'few_s': 'few images, s', 'many_s': 'many images, s', 'size_kb': 'size, kB', 'truth': 'true values',
} # names in place of keys
IMAGES = dict(own='photographs', drawn='drawings') # values of `images`
NOTE = '<!-- Rendered from results.jsonl by results.py: do not edit. -->\n\n'
INTRO = ('Ratios and differences compare two sides that were measured in the same run. Absolute times depend on the machine. '
         'The docstring of each script describes the measurement.')


def label(key):
    "The name of a key"
    return LABELS.get(key, key.replace('_', ' ').replace('macro f1', 'macro-F1'))


def cell(v):
    "A value as text"
    if v in ([], {}): return 'none'
    if isinstance(v, dict): return ', '.join(f'{label(k)} {cell(x)}' for k, x in v.items())
    if isinstance(v, list):
        return '; '.join(map(cell, v)) if len(v) <= 10 else f'{len(v)} values, from {cell(v[0])} to {cell(v[-1])}'
    if isinstance(v, (bool, type(None))): return {True: 'yes', False: 'no', None: ''}[v]
    return f'{v:,.4g}' if isinstance(v, float) else f'{v}'.replace('|', '\\|')


def rows(head, body):
    "A Markdown table"
    lines = ['| ' + ' | '.join(r) + ' |' for r in (head, *body)]
    return '\n'.join([lines[0], '|---' * len(head) + '|', *lines[1:]])


def table(pairs):
    "Names and values as a Markdown table"
    return '\n'.join(['| | |', '|---|---|', *(f'| {label(k)} | {cell(IMAGES.get(v, v) if k == "images" else v)} |' for k, v in pairs)])


def reproduced(line):
    "The scores of a recipe, one row per seed"
    changes, n = ', '.join(f'{k}={v}' for k, v in line['changes'].items()), len(line['seeds'])
    spread = '; a single seed' if line['sd'] is None else f'; standard deviation over seeds {line["sd"]:.4f}'
    head = (f'**{line["name"] or line["recipe"]}**: recipe `{line["recipe"]}`{" with " + changes if changes else ""}, '
            f'{n} seed{"s" * (n > 1)}: macro-F1 {line["mean"]:.4f} (95 % confidence interval over the {line["n"]:,} test images '
            f'{line["low"]:.4f}–{line["high"]:.4f}{spread})')
    if line.get('note'): head += f'. Note: {line["note"]}'
    cols = ('seed', 'macro_f1', 'low', 'high', 'accuracy', 'valid', 'best_epoch', 'minutes', 'threads', 'gpu')
    return head + '\n\n' + rows([label(c) for c in cols], [[cell(s.get(c)) for c in cols] for s in line['seeds']])


def steps(line):
    "The gains of an ablation, one row per step"
    about = table((k, v) for k, v in line.items() if k not in ('what', 'steps', 'seconds') and k not in MACHINE)
    ci = '95 % confidence interval'
    def gain(s): return [f'{s["gain"]:+.3f}', f'{s["gain_interval"][0]:+.3f} – {s["gain_interval"][1]:+.3f}'] if 'gain' in s else ['', '']
    body = [[s['step'], f'{s["f1"]:.3f}', f'{s["interval"][0]:.3f}–{s["interval"][1]:.3f}',
             ', '.join(f'{v:.3f}' for v in s['seeds']), *gain(s), str(t)] for s, t in zip(line['steps'], [*line['seconds'], ''])]
    return about + '\n\n' + rows(['step', 'macro-F1', ci, 'seeds', 'gain', ci, 'seconds per training'], body)


def explored(lines, spread):
    "Experiments of explore.py, one row each; `spread` holds standard deviations over seeds of recipes trained with several"
    head = ['experiment', 'recipe', 'changes', 'seed', 'epochs', 'training accuracy', 'macro-F1', 'negative log-likelihood',
            'macro-F1 at other sizes']
    body = []
    for l in lines:
        others = ', '.join(f'{k.removeprefix("flip ")} {v["f1"]:.3f}' for k, v in l.items() if k.startswith('flip '))
        changes = cell(', '.join(f'{k}={v}' for k, v in l['changes'].items() if k != 'seed'))
        body.append([cell(l['name']), l['recipe'], changes, str(l['seed']), str(l['epochs']), f'{l["train_accuracy"]:.3f}',
                     f'{l["flip"]["f1"]:.3f}', f'{l["flip"]["nll"]:.3f}', others])
    return (f'Evaluated on {lines[0]["n"]:,} images after the last epoch, with test-time augmentation (horizontal flip); one '
            'seed each. The macro-F1 of the recipes above that were trained with three or more seeds has standard deviations '
            f'of {min(spread):.3f} to {max(spread):.3f} over seeds.\n\n' + rows(head, body))


def tables(lines):
    "Group experiments that can share a table: the same number of images and the same machine"
    groups = {}
    for l in lines: groups.setdefault(tuple(l.get(k) for k in ('n', *MACHINE)), []).append(l)
    return groups.values()


def one(line):
    "A result as Markdown"
    if line['what'] == 'reproduced': return reproduced(line)
    if 'steps' in line: return steps(line)
    return table((k, v) for k, v in line.items() if k != 'what' and k not in MACHINE)


def render(lines):
    "All results by kind, in the order of their first measurement"
    out = ['# Benchmark results', INTRO]
    spread = [l['sd'] for l in lines if l['what'] == 'reproduced' and len(l['seeds']) >= 3]
    for what in dict.fromkeys(l['what'] for l in lines):
        out.append(f'## {TITLES.get(what, what[0].upper() + what[1:])}')
        same = [l for l in lines if l['what'] == what]
        for group in tables(same) if what == 'explored' else [[l] for l in same]:
            where = ', '.join(f'{k} {group[0][k]}' for k in MACHINE if group[0].get(k))
            out.append(explored(group, spread) if what == 'explored' else one(group[0]))
            if where: out.append(f'Measured with {where}.')
    return NOTE + '\n\n'.join(out) + '\n'


if __name__ == '__main__':
    lines = [json.loads(l) for l in open(HERE/'results.jsonl', encoding='utf-8') if l.strip()]
    (Path(sys.argv[1] if len(sys.argv) > 1 else HERE)/'RESULTS.md').write_text(render(lines), encoding='utf-8')
