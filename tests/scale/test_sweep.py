"A sweep on Ray Tune"
import pytest

from har_fastai.cli_scale import har_sweep

pytest.importorskip('ray.tune')


@pytest.mark.slow('starts Ray and trains')
def test_a_sweep_ends_in_a_comparison_and_is_not_repeated(drawn, tmp_path, capsys):
    argv = ['demo', '--data', drawn, '--out', tmp_path/'sweep', '--seeds', 1, 2, '--epochs', 1, '--size', 32, '--bs', 16, '--device', 'cpu']
    for _ in range(2):
        har_sweep([*map(str, argv)])
        assert '2 runs in' in capsys.readouterr().out
        assert 'demo' in (tmp_path/'sweep'/'comparison.html').read_text()
    assert {p.name for p in (tmp_path/'sweep').iterdir() if p.name[0] != '.'} == {'demo-1', 'demo-2', 'comparison.html'}
