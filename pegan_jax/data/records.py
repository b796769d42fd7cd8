"""Random access to TFDS datasets, including the procedural worlds, without TensorFlow; sources as in `data.sources`."""

import dataclasses
import io
import logging
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from pegan_jax.data import worlds
from pegan_jax.data.sources import Contents
from pegan_jax.files import Path, as_path, in_bucket, on_disk
from pegan_jax.pixels import UnreadableImage, to_uint8
from pegan_jax.settings import ConfigError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Records:
    """A split of a TFDS dataset; images stay encoded."""

    name: str
    records: Any  # TFDS data source
    image: str  # names of features
    label: str | None
    classes: tuple[str, ...] = ()

    @property
    def c_dim(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def contents(self) -> Contents:
        """What it holds; images are not counted by class, because that would read them all."""
        return Contents(self.name, len(self.records), self.classes)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.records[index]
        if example[self.image] is None:  # array_record reads nothing if a file was cut at the end of a block
            raise UnreadableImage('the record is missing')
        label = {} if self.label is None else {'label': np.int32(example[self.label])}
        return {'image': example[self.image], **label}


def _feature(features: dict[str, Any], kind: type, usual: str) -> str | None:
    """The name of the only feature of a kind, or the usual name if that exists."""
    names = [n for n, f in features.items() if isinstance(f, kind)]
    return usual if usual in names else names[0] if len(names) == 1 else None


def open_builder(builder: tfds.core.DatasetBuilder, split: str, labels: bool = False) -> Records:
    """A split of a prepared TFDS dataset, read without TensorFlow.

    The image is the only feature of type Image, or the one called 'image'; the label, which is read with `labels`, is
    the only ClassLabel, or the one called 'label'.

    Raises: ConfigError if the dataset is not prepared, not stored as ArrayRecord, has no such split, image or label.
    """
    name = builder.info.full_name.rsplit('/', 1)[0]
    root = builder.data_dir_root
    how = (
        f'prepare it once with: python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{root}', file_format='array_record').download_and_prepare()\""
        f" (most datasets need TensorFlow for this, but not for training: pip install 'pegan_jax[tf]')."
    )
    if not builder.is_prepared():
        raise ConfigError(f'data.tfds={name!r} is not prepared in {root}; {how}')
    formats = {f.value for f in builder.info.available_file_formats()}
    if 'array_record' not in formats:
        raise ConfigError(
            f'data.tfds={name!r} in {root} is stored as {", ".join(sorted(formats))}, which has no random access; '
            f'choose another data.data_dir or delete {builder.data_dir}, then {how}'
        )
    features = builder.info.features
    image = _feature(features, tfds.features.Image, 'image')
    if image is None:
        raise ConfigError(f'data.tfds={name!r} has no image, or several and none is called "image": {dict(features)}.')
    label = _feature(features, tfds.features.ClassLabel, 'label') if labels else None
    if labels and label is None:
        raise ConfigError(f'data.labels=True, but data.tfds={name!r} has no label, or several: {dict(features)}.')
    images = [n for n, f in features.items() if isinstance(f, tfds.features.Image)]
    try:
        records = builder.as_data_source(split, decoders={n: tfds.decode.SkipDecoding() for n in images})
    except ValueError as error:
        raise ConfigError(
            f'data.split={split!r} of {name!r}: {error}; known: {", ".join(builder.info.splits)}.'
        ) from error
    source = Records(name, records, image, label, () if label is None else tuple(features[label].names))
    try:
        source[0], source[len(source) - 1]
    except Exception as error:  # array_record raises many types on missing and cut files
        raise ConfigError(f'{builder.data_dir} is damaged ({error}); delete it and prepare it again.') from error
    return source


def _on_disk(name: str, data_dir: str) -> Path:
    """The data directory, or a copy of this dataset if that is in a bucket: ArrayRecord is read only from disks."""
    root = as_path(data_dir)
    if not in_bucket(root):
        return root
    dataset = name.partition('/')[0].partition(':')[0]
    return on_disk(root / dataset).parent if (root / dataset).is_dir() else root


def open_tfds(name: str, split: str, data_dir: str | None, labels: bool = False) -> Records:
    """A split of the TFDS dataset `name` ('name', 'name/config', 'name/config:version'), prepared as ArrayRecord.

    Raises: ConfigError as `open_builder`, or if there is no such dataset.
    """
    try:
        if data_dir is not None:
            data_dir = str(_on_disk(name, data_dir))
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ConfigError(
            f'data.tfds={name!r} is no TFDS dataset, and none is prepared in data.data_dir={data_dir!r}. If it is '
            'meant as a folder or a file, there is none of this name here: check the path.'
        ) from None
    except ImportError as error:  # TFDS wraps TensorFlow's absence without a name
        missing, package = (error.name, error.name) if error.name else ('TensorFlow', "'pegan_jax[tf]'")
        raise ConfigError(f'data.tfds={name!r} cannot be opened without {missing}: pip install {package}.') from error
    except (ValueError, AssertionError) as error:  # malformed name, unknown configuration or version
        raise ConfigError(f'data.tfds={name!r}: {error}') from error
    return open_builder(builder, split, labels)


# Worlds ---------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class WorldsConfig(tfds.core.BuilderConfig):
    """Size of the frame, number of images, worlds 0 to num - 1, and the margins that they show above and beside it."""

    height: int = 64
    width: int = 64
    num: int = 4096
    margin: tuple[int, int] = (0, 0)


class Worlds(tfds.core.GeneratorBasedBuilder):
    """Images of `pegan_jax.data.worlds` with their truths, prepared locally without TensorFlow.

    Configurations are named <height>x<width>x<num>, or with margins <height>x<width>x<num>x<above>x<beside>.
    """

    VERSION = tfds.core.Version('1.0.0')  # to be raised when the look of the worlds changes
    # Nothing is downloaded. Without this, TFDS looks for checksums beside this module, which needs a package that
    # it does not declare as a dependency (importlib_resources).
    url_infos = None

    @classmethod
    def get_builder_config(cls, name: str, version: str | None = None) -> WorldsConfig:
        """Every size is a configuration, with a folder of its own."""
        height, width, num, *margin = map(int, name.split('x'))
        return WorldsConfig(name=name, height=height, width=width, num=num, margin=tuple(margin) or (0, 0))

    def _canvas(self) -> tuple[int, int]:
        config = self.builder_config
        return config.height + 2 * config.margin[0], config.width + 2 * config.margin[1]

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (*self._canvas(), 3)
        return tfds.core.DatasetInfo(
            builder=self,
            description='Procedural landscapes with known horizons.',
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(shape=shape, encoding_format='png'),
                    'seed': tfds.features.Scalar(np.int32),
                    'horizon': tfds.features.Scalar(np.float32),
                    'hour': tfds.features.Scalar(np.float32),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {'train': self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        (height, width), num = self._canvas(), self.builder_config.num
        reach = height / self.builder_config.height  # the frame is [-1, 1]
        chunk = min(num, max(1, 2**18 // (height * width)))
        for start in range(0, num, chunk):
            seeds = jnp.arange(start, start + chunk)  # the last chunk may be longer than needed: one compiled shape
            images = to_uint8(worlds.render_world(seeds, height, width, y=(-reach, reach)))
            truths = jax.vmap(worlds.truth)(seeds)
            for k in range(min(chunk, num - start)):
                png = io.BytesIO()
                Image.fromarray(images[k]).save(png, 'png', compress_level=3)
                example = {'image': png.getvalue(), 'seed': start + k}
                yield start + k, example | {n: float(getattr(truths, n)[k]) for n in ('horizon', 'hour')}


def open_worlds(
    size: tuple[int, int], num: int, split: str, data_dir: str, margin: tuple[int, int] = (0, 0)
) -> Records:
    """The worlds dataset for (height, width) and `num` images, prepared in data_dir on first use.

    With a margin, pixels (above and below, beside), images show that much more, and are larger by it.

    TFDS writes to a temporary folder and renames it when it is complete: an interrupted preparation starts again.

    Raises: ConfigError for an unknown split, or if the folder is damaged.
    """

    data_dir = as_path(data_dir)
    if in_bucket(data_dir):
        raise ConfigError(f'data.data_dir={data_dir}: worlds are prepared on a disk; leave it out.')

    def builder() -> Worlds:
        numbers = (*size, num, *margin) if any(margin) else (*size, num)
        return Worlds(data_dir=data_dir, config='x'.join(map(str, numbers)), file_format='array_record')

    target = builder()
    if target.data_path.exists() and not target.is_prepared():
        raise ConfigError(f'{target.data_dir} is damaged; delete it and it will be prepared again.')
    if not target.is_prepared():
        logger.info('preparing %d worlds of %d x %d pixels in %s', num, *size, data_dir)
        try:
            target.download_and_prepare()
        except OSError:
            if not builder().is_prepared():  # if not, another process has finished the same folder first
                raise
    return open_builder(builder(), split)
