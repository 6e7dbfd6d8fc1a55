"Package har_fastai; name, version and requirements are in settings.ini"
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
extras = 'dev', 'download', 'zoo', 'onnx', 'hub', 'serve', 'video', 'heic', 'app', 'pretrained', 'pose', 'embed', 'pretrain', 'track', 'scale'


def words(key):
    "The requirements under `key`, as a list"
    return cfg.get(key, '').split()


def page():
    "README.md for PyPI, with absolute addresses of images and links"
    text = (here/'README.md').read_text(encoding='utf-8')
    text = re.sub(r'(!\[[^\]]*\]\()(nbs/)', rf'\1{cfg["git_url"]}/raw/{cfg["branch"]}/\2', text)
    return re.sub(r'(\]\()(?!https?:|#)', rf'\1{cfg["git_url"]}/blob/{cfg["branch"]}/', text)


setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=page(),
    long_description_content_type='text/markdown',
    url=cfg['git_url'],
    project_urls={'Documentation': cfg['doc_host'] + cfg['doc_baseurl'],
                  'Changes': f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md",
                  'Issues': f"{cfg['git_url']}/issues"},
    author=cfg['author'],
    author_email=cfg['author_email'],
    license='Apache-2.0',
    keywords=cfg['keywords'],
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research',
                 'Intended Audience :: Developers', 'Framework :: Jupyter',
                 'Topic :: Scientific/Engineering :: Image Recognition',
                 *(f'Programming Language :: Python :: 3.{v}' for v in (11, 12, 13))],
    packages=find_packages(include=['har_fastai', 'har_fastai.*']),
    package_data={'har_fastai': ['py.typed', *(f'shipped/*/*.{kind}' for kind in ('safetensors', 'json', 'npy', 'onnx'))]},
    include_package_data=False,
    python_requires=f">={cfg['min_python']}",
    install_requires=words('requirements'),
    extras_require={extra: words(f'{extra}_requirements') for extra in extras},
    entry_points={'console_scripts': words('console_scripts'),
                  'nbdev': [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    zip_safe=False,
)
