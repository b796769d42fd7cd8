"""Animations: writes frames, one after the other, to a .gif or an .mp4."""

import contextlib
import itertools
import warnings
from collections.abc import Iterable, Iterator

import numpy as np

from pegan_jax.files import Path, check_file, whole
from pegan_jax.pixels import as_image, with_channels
from pegan_jax.settings import UserError

SUFFIXES = ('.gif', '.mp4')
LONGEST = 65_535  # the longest time, in hundredths of a second, that a .gif can show a frame


def usual_fps(path: Path) -> int:
    """Frames per second of a video when none are asked for: smooth in an .mp4, few in a .gif, which is far larger."""
    return 60 if path.suffix.lower() == '.mp4' else 20


def check(path: Path, fps: float) -> None:
    """Raises: UserError unless `write` can write a file of this name here, with so many frames per second."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f'{path.name}: the suffix is {path.suffix!r}; use .gif or .mp4.')
    if path.suffix.lower() == '.gif' and not 100 / LONGEST <= fps <= 50:
        raise UserError(
            f'{path.name}: fps={fps:g}, and a .gif shows a frame for 0.02 to {LONGEST / 100:g} seconds; use 0.002 to '
            '50, or write an .mp4.'
        )
    check_file(path)
    if path.suffix.lower() == '.mp4':
        try:
            import imageio_ffmpeg  # an extra: only videos need it

            imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f"{path.name} needs FFmpeg ({error}): pip install 'pegan_jax[video]', or write a .gif."
            ) from None


def write(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Writes frames, uint8 [H, W, C] of one size; the file appears when complete.

    Frames of an .mp4 go to the encoder one by one, so that memory does not grow with their number; those of a .gif are
    kept, with a byte per pixel. Pixels of a .gif are transparent or opaque, with nothing between. It shows a frame for
    whole hundredths of a second, at least two, because viewers slow down anything shorter. In an .mp4, transparent
    pixels are over black, and an odd last row or column is left out, as most players require.

    Raises: UserError as `check`, and for no frames.
    """
    check(path, fps)
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise UserError(f'{path.name} has no frames; give at least one.')
    with whole(path) as unfinished:
        if path.suffix.lower() == '.gif':
            rest = (as_image(frame) for frame in frames)
            # A transparent pixel shows the background, not the previous frame.
            duration = 10 * round(100 / fps)
            options = {'disposal': 2 if first.shape[-1] == 4 else 0, 'duration': duration, 'loop': 0}
            as_image(first).save(unfinished, 'GIF', save_all=True, append_images=rest, **options)
            return
        import imageio_ffmpeg  # an extra, which is checked above

        height, width = (side - side % 2 for side in first.shape[:2])
        if min(height, width) < 2:
            raise UserError(f'{path.name}: frames of {first.shape[0]} x {first.shape[1]} pixels; write a .gif of them.')
        # The unfinished file has no suffix that would tell the format.
        options = {'codec': 'libx264', 'macro_block_size': 2, 'output_params': ['-f', 'mp4'], 'fps': fps}
        encoder = imageio_ffmpeg.write_frames(str(unfinished), (width, height), **options)
        with _encoding(path):
            encoder.send(None)
        try:
            for frame in itertools.chain([first], frames):
                pixels = np.ascontiguousarray(with_channels(frame[:height, :width], 3))
                with _encoding(path):
                    encoder.send(pixels)
        finally:
            encoder.close()
        with _encoding(path):  # FFmpeg does not say how it ended
            imageio_ffmpeg.count_frames_and_secs(str(unfinished))


@contextlib.contextmanager
def _encoding(path: Path) -> Iterator[None]:
    """Turns what FFmpeg fails with into a UserError."""
    try:
        with warnings.catch_warnings():  # JAX warns about every fork; this one starts another program at once
            warnings.simplefilter('ignore', RuntimeWarning)
            yield
    except (OSError, RuntimeError) as error:
        why = str(error).strip().split('\n')[-1]
        raise UserError(f'{path} was not finished by FFmpeg; is the disk full? ({why})') from None
