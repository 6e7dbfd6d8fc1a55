"`har_map` as a command on drawings, and its page in a browser with mouse, touch and keyboard"
import re

import pytest

from har_fastai.cli_curate import har_map
from har_fastai.drawing.dataset import draw_har
from helpers import read_rows


@pytest.fixture(scope='module')
def mapped(tmp_path_factory):
    "A folder with drawings, and its map"
    home = tmp_path_factory.mktemp('mapped')
    data = draw_har(home/'data', n=60, size=64, seed=1, test=0)
    har_map([str(data), '--out', str(home/'map.html')])
    return data, home/'map.html'


def until(page, expression:str) -> None:
    "Wait until an expression is true; the security policy of the page forbids Playwright's `wait_for_function`"
    for _ in range(200):
        if page.evaluate(expression): return
        page.wait_for_timeout(50)
    pytest.fail(f'{expression} is still false')


@pytest.fixture
def opened(mapped, browser):
    "`opened(**context)`: the page, and what it reports or loads"
    made = []
    def visit(file=mapped[1], width=1280, **kwargs):
        context = browser.new_context(viewport=dict(width=width, height=800), reduced_motion='reduce', **kwargs)
        made.append(context)
        page, seen = context.new_page(), []
        page.on('pageerror', lambda e: seen.append(str(e)))
        page.on('console', lambda m: m.type in ('error', 'warning') and seen.append(m.text))
        page.on('request', lambda r: r.url.startswith(('file:', 'data:', 'blob:')) or seen.append(r.url))
        page.goto(file.as_uri())
        until(page, 'drawn.length > 3')
        return page, seen
    yield visit
    for c in made: c.close()


def pixel(page, i:int) -> tuple[float, float]:
    "Where an image is on the screen"
    box = page.locator('#map').bounding_box()
    return box['x'] + page.evaluate(f'toX(X[{i}])'), box['y'] + page.evaluate(f'toY(Y[{i}])')


def test_a_click_shows_an_image_and_those_nearest_to_it(mapped, opened):
    page, seen = opened()
    labels = {r['filename']: r['label'] for r in read_rows(mapped[0]/'Training_set.csv')}
    i = page.evaluate('drawn.at(-1)[0]') # a thumbnail that nothing covers
    page.mouse.click(*pixel(page, i))
    assert page.evaluate('chosen') == i and page.evaluate('el("big").naturalWidth') > 0
    file = page.evaluate(f'D.names[{i}]')
    assert page.inner_text('#label') == labels[file].replace('_', ' ') and file in page.inner_text('#facts')
    assert page.locator('#near button').count() == 12
    other = page.evaluate(f'NEAR[{i} * K]')
    page.locator('#near button').first.click()
    assert page.evaluate('chosen') == other
    page.click('#close'); assert not page.is_visible('#detail') and seen == []


def test_thumbnails_do_not_overlap_and_all_appear_on_zooming_in(opened):
    page, _ = opened()
    overlaps = '''() => drawn.some(([i, x, y, w, h], a) => drawn.some(([j, u, v, k, l], b) => a < b
      && level[i] < deepest && level[j] < deepest && Math.abs(x - u) < (w + k) / 2 - 1 && Math.abs(y - v) < (h + l) / 2 - 1))'''
    found = []
    for factor in (1, 2, 2, 4):
        page.evaluate(f'zoom({factor})'); page.wait_for_timeout(400)
        assert not page.evaluate(overlaps)
        found.append(page.evaluate('Math.max(...drawn.map(d => level[d[0]]), 0)'))
    assert found == sorted(found) and found[-1] > found[0]


def test_class_and_text_filter_the_map_and_its_list(mapped, opened):
    page, seen = opened()
    page.click('#legend button:has-text("cycling")')
    assert page.inner_text('#count') == '4 of 60 images'
    page.click('#box summary'); until(page, 'el("list").children.length === 4') # the event follows the click
    page.click('#all'); assert page.inner_text('#count') == '60 images'
    name = page.evaluate('D.names[5]')
    page.keyboard.press('/'); page.keyboard.type(name)
    until(page, 'count < N')
    page.locator('#list button').first.click(); assert name in page.inner_text('#facts') and seen == []


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_colours_follow_the_menu_and_the_theme(opened, scheme):
    page, seen = opened(color_scheme=scheme)
    assert page.locator('#mode option').all_inner_texts() == ['Class', 'Prediction', 'Right or wrong']
    background = page.evaluate('[...g.getImageData(2, 2, 1, 1).data]')
    assert background[:3] == ([255, 255, 255] if scheme == 'light' else [0x14, 0x17, 0x1b])
    page.select_option('#mode', 'error')
    n = sum(int(re.match(r'\d+', t)[0]) for t in page.locator('#legend i').all_inner_texts())
    assert n == 60 and page.locator('#legend svg path').count() == 1 and seen == [] # wrong ones are triangles, not only of another colour


def test_the_map_is_used_with_the_keyboard(opened):
    page, _ = opened()
    page.focus('#map'); s, x = page.evaluate('[s, cx]')
    page.keyboard.press('+'); page.keyboard.press('ArrowRight')
    assert page.evaluate('s') > s and page.evaluate('cx') > x
    page.keyboard.press('Enter'); first = page.evaluate('chosen'); assert first >= 0
    page.keyboard.press('n'); assert page.evaluate('chosen') != first
    page.keyboard.press('Backspace'); assert page.evaluate('chosen') == first
    page.keyboard.press('Escape'); page.keyboard.press('0')
    assert page.evaluate('chosen') == -1 and page.evaluate('s') == s


def test_a_phone_pinches_and_drags(opened):
    page, seen = opened(width=390, has_touch=True)
    assert page.evaluate('document.documentElement.scrollWidth') <= 390 and not page.is_visible('#legend')
    page.tap('#sheet'); assert page.is_visible('#legend'); page.tap('#sheet')
    touch = page.context.new_cdp_session(page)
    def send(kind, *at):
        touch.send('Input.dispatchTouchEvent', dict(type=kind, touchPoints=[dict(x=x, y=y, id=i) for i, (x, y) in enumerate(at)]))
    s = page.evaluate('s')
    send('touchStart', (150, 400), (240, 400))
    for d in (10, 30, 60): send('touchMove', (150 - d, 400), (240 + d, 400))
    send('touchEnd'); assert page.evaluate('s') > 1.5 * s
    x = page.evaluate('cx')
    send('touchStart', (200, 400))
    for d in (10, 40, 80): send('touchMove', (200 - d, 400))
    send('touchEnd'); assert page.evaluate('cx') > x and seen == []
    send('touchStart', pixel(page, page.evaluate('at(W / 2, H / 2, 1e4)'))); send('touchEnd')
    assert page.is_visible('#detail') and page.evaluate('document.documentElement.scrollWidth') <= 390


def test_images_without_labels_and_hostile_names(tmp_path, mapped, opened):
    folder = tmp_path/'images'; folder.mkdir()
    for i, f in enumerate(sorted((mapped[0]/'train').iterdir())[:13]):
        (folder/f'<img src=x onerror=alert(1)>{i}.png').write_bytes(f.read_bytes())
    har_map([str(folder), '--unlabelled', '--out', str(tmp_path/'map.html')])
    page, seen = opened(tmp_path/'map.html')
    page.evaluate('choose(3)')
    assert page.inner_text('#label').startswith('<img') and page.locator('aside img').count() == 13 and seen == []


@pytest.fixture(scope='module')
def marked(mapped, tmp_path_factory):
    "The map with two images that are not in the data set, of which the first is a copy of one that is"
    home = tmp_path_factory.mktemp('marked')
    own = [home/'a copy.png', home/'other.png']
    copied = sorted((mapped[0]/'train').iterdir())[4]
    own[0].write_bytes(copied.read_bytes())
    own[1].write_bytes(next((draw_har(home/'more', n=15, size=64, seed=9, test=0)/'train').iterdir()).read_bytes())
    har_map([str(mapped[0]), '--like', *map(str, own), '--out', str(home/'map.html')])
    return home/'map.html', copied.name


@pytest.mark.parametrize('width', [1280, 390])
def test_own_images_are_marked_with_those_nearest_to_them(marked, opened, width):
    page, seen = opened(marked[0], width, has_touch=width < 600)
    assert page.inner_text('#count') == '60 images' and page.evaluate('D.names.length') == 62
    assert page.inner_text('#label') == 'Your image 1' and 'a copy.png' in page.inner_text('#facts') # shown at once
    assert page.evaluate('D.names[NEAR[60 * K]]') == marked[1] and page.locator('#near button').count() == 12
    classes = page.evaluate('Array.from(NEAR.subarray(60 * K, 60 * K + K), j => called(LABEL[j]))')
    assert all(f'{c} {classes.count(c)}' in page.inner_text('#facts') for c in classes)
    until(page, 'drawn.filter(d => isOwn(d[0])).length === 2')
    page.locator('#owns button').nth(1).click()
    assert page.inner_text('#label') == 'Your image 2' and page.evaluate('chosen') == 61
    page.click('#close'); page.evaluate('home()'); page.wait_for_timeout(300)
    x, y, w, h = page.evaluate('drawn.find(d => d[0] === 61).slice(1)')
    assert abs(x - page.evaluate('toX(X[61])')) < 1 and abs(y - page.evaluate('toY(Y[61])')) < h / 2 + 20 # its tip is at its place
    box = page.locator('#map').bounding_box()
    page.mouse.click(box['x'] + x, box['y'] + y); assert page.evaluate('chosen') == 61
    assert page.evaluate('document.documentElement.scrollWidth') <= width and seen == []


def test_filters_leave_own_images_on_the_map(marked, opened):
    page, _ = opened(marked[0])
    page.click('#close'); page.click('#legend button:has-text("cycling")')
    assert page.inner_text('#count') == '4 of 60 images' and page.evaluate('count') == 4
    until(page, 'drawn.filter(d => isOwn(d[0])).length === 2')
    page.click('#box summary'); until(page, 'el("list").children.length === 4') # the event follows the click
    page.fill('#query', 'a copy'); until(page, 'count === 0') # the search is for images of the data set
    until(page, 'drawn.filter(d => isOwn(d[0])).length === 2')


def test_an_own_image_without_labels_has_the_prediction_of_a_model(tmp_path, mapped, opened):
    own = sorted((mapped[0]/'train').iterdir())[0]
    har_map([str(mapped[0]/'train'), '--unlabelled', '--model', 'baseline', '--like', str(own), '--out', str(tmp_path/'map.html')])
    page, seen = opened(tmp_path/'map.html')
    assert page.inner_text('#label') == 'Your image' and 'Prediction' in page.inner_text('#facts') and seen == []


@pytest.mark.parametrize('argv, words', [
    (['nowhere'], 'does not exist'), (['DATA', '--most', '2'], '3 to 65,000'), (['DATA', '--mb', '0'], '--mb is 0'),
    (['DATA', '--mb', '.01'], 'do not fit'), (['DATA', '--out', 'DATA'], 'is a folder'), (['DATA/train'], 'without labels'),
    (['DATA', '--like', 'nowhere.jpg'], 'no such file'), (['DATA', '--like', 'DATA/Training_set.csv'], 'not an image')])
def test_mistakes_get_one_sentence(mapped, refuse, argv, words):
    code, message = refuse(har_map, *(a.replace('DATA', str(mapped[0])) for a in argv))
    assert code == 2 and words in message
