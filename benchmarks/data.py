"""How fast images come from a folder, a ZIP file and ArrayRecord: JPEGs, decoded, fitted and stacked as for training.

python benchmarks/data.py [--stored 256] [--resolution 256] [--images 512] [--seconds 10] [--json FILE]

Images are crops of the photographs that come with scikit-image (extra `test`): JPEGs of quality 95, --stored pixels a
side. Each source is read by one core and by all of them. Beside it stands what Pillow alone decodes on one core: what
is below that is the price of reading, fitting and stacking. The cores that a run needs are its images per second, as
`perf/images_per_second` of its metrics.jsonl says, over those of one core here.
"""

import argparse
import io
import itertools
import json
import os
import pathlib
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds
from photo_crops import crops
from PIL import Image

from pegan_jax.config import DataConfig
from pegan_jax.data.pipeline import batches, open_source
from pegan_jax.data.records import open_builder

BATCH = 32


def jpegs(count: int, side: int) -> list[bytes]:
    """Windows of the photographs."""
    files = []
    for _, crop in crops(count, side, seed=0):
        file = io.BytesIO()
        crop.save(file, 'jpeg', quality=95)
        files.append(file.getvalue())
    return files


class Crops(tfds.core.GeneratorBasedBuilder):
    """The JPEGs of a folder as records."""

    VERSION = tfds.core.Version('1.0.0')
    url_infos = None
    folder: pathlib.Path

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg')
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({'image': image}))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {'train': self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict]]:
        for path in sorted(self.folder.iterdir()):
            yield path.name, {'image': path.read_bytes()}


def rate(read: Callable[[], int], seconds: float) -> float:
    """Images per second of a function that reads some and says how many; its first call is not timed."""
    read()
    begin, count = time.perf_counter(), 0
    while (took := time.perf_counter() - begin) < seconds:
        count += read()
    return count / took


def main() -> None:
    """Prints one row per source."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--stored', type=int, default=256, help='pixels of a side of the JPEGs (default 256)')
    parser.add_argument('--resolution', type=int, default=256, help='as data.resolution (default 256)')
    parser.add_argument('--images', type=int, default=512)
    parser.add_argument('--seconds', type=float, default=10.0, help='per measurement (default 10)')
    parser.add_argument('--json', type=pathlib.Path)
    args = parser.parse_args()
    cores, files = sorted(os.sched_getaffinity(0)), jpegs(args.images, args.stored)
    found = {'stored': args.stored, 'resolution': args.resolution, 'cores': len(cores)}
    found['kB per file'] = sum(map(len, files)) / len(files) / 1000
    endless = itertools.cycle(files)

    def decode() -> int:
        np.asarray(Image.open(io.BytesIO(next(endless))).convert('RGB'))
        return 1

    with tempfile.TemporaryDirectory() as root:
        folder, archive = pathlib.Path(root) / 'images', pathlib.Path(root) / 'images.zip'
        folder.mkdir()
        with zipfile.ZipFile(archive, 'w') as z:
            for i, file in enumerate(files):
                (folder / f'{i:05d}.jpg').write_bytes(file)
                z.writestr(f'{i:05d}.jpg', file)
        Crops.folder = folder
        builder = Crops(data_dir=root, file_format='array_record')
        builder.download_and_prepare()
        data = DataConfig(folder=str(folder), resolution=args.resolution)
        sources = {
            'folder': lambda: open_source(data, pathlib.Path(root)),
            'ZIP file': lambda: open_source(DataConfig(folder=str(archive)), pathlib.Path(root)),
            'ArrayRecord': lambda: open_builder(builder, 'train'),
        }
        for count in sorted({1, len(cores)}):
            os.sched_setaffinity(0, cores[:count])  # of the threads that begin from now on too
            if count == 1:
                found['Pillow alone, 1 core'] = rate(decode, args.seconds)
            for name, source in sources.items():
                stream = batches(source(), data, batch_size=BATCH, seed=0)
                found[f'{name}, {count} core{"s" * (count > 1)}'] = rate(
                    lambda s=stream: len(next(s)['image']), args.seconds
                )
                stream.close()
    for name, value in found.items():
        print(f'{name:24}{value:10.1f}')
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == '__main__':
    main()
