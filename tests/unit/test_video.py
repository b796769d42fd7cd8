"""Videos: loops through latents, cameras that come back, files that hold what was drawn."""

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from test_projection import model

from pegan_jax import animation, sample
from pegan_jax.pixels import image_grid, to_uint8
from pegan_jax.sampling import camera, interpolation


def test_a_loop_goes_through_its_seeds_and_ends_where_it_begins():
    loaded = model()
    count, frames = interpolation(loaded, [0, 1, 2, 3], cells=(1, 2), w_frames=3)
    frames = np.stack(list(frames))
    images = to_uint8(sample(loaded, [0, 1, 2, 3]))
    assert count == len(frames) == 6
    np.testing.assert_allclose(frames[0].astype(int), image_grid(images[[0, 2]], 2), atol=1)
    np.testing.assert_allclose(frames[3].astype(int), image_grid(images[[1, 3]], 2), atol=1)
    steps = np.abs(np.diff(np.concatenate([frames, frames[:1]]).astype(int), axis=0)).mean((1, 2, 3))
    assert steps.min() > 0 and steps[-1] < 3 * steps[:-1].mean()  # the last frame leads to the first


def test_one_seed_stands_still_and_seeds_repeat_in_cells():
    _, frames = interpolation(model(), [5], cells=(2, 1), w_frames=2)
    first, second = frames
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[: len(first) // 2], first[len(first) // 2 :])


def test_classes_of_seeds_repeat_with_them_in_cells():
    loaded = model(overrides=('model.c_dim=3', 'data.labels=True'))
    _, frames = interpolation(loaded, [0, 1, 2], cells=(1, 4), w_frames=1, label=[2, 0, 1])
    images = to_uint8(sample(loaded, [0, 1, 2], label=[2, 0, 1]))
    np.testing.assert_allclose(next(frames).astype(int), image_grid(images[[0, 1, 2, 0]], 4), atol=1)
    with pytest.raises(ValueError, match='has 2 classes for 3 images'):
        interpolation(loaded, [0, 1, 2], cells=(1, 4), label=[2, 0])


def test_the_frames_of_a_loop_are_made_by_as_many_images_as_one_likes():
    loaded = model()
    for batch_size in (1, 8):
        _, frames = interpolation(loaded, [0, 1], cells=(2, 1), w_frames=1, batch_size=batch_size)
        images = to_uint8(sample(loaded, [0, 1], batch_size=batch_size))
        np.testing.assert_allclose(next(frames).astype(int), image_grid(images, 1), atol=1)


def test_a_camera_leaves_the_frame_and_comes_back():
    loaded = model('cips:tiny')
    count, frames = camera(loaded, [1], 'translate', frames=8)
    frames = np.stack(list(frames)).astype(int)
    assert count == len(frames) == 8
    still = to_uint8(sample(loaded, [1]))[0].astype(int)
    np.testing.assert_allclose(frames[0], still, atol=1)
    np.testing.assert_allclose(frames[4], still, atol=1)
    assert np.abs(frames[2] - still).mean() > 1
    turned = list(camera(loaded, [1], 'rotate', frames=4)[1])
    np.testing.assert_allclose(turned[1].astype(int), np.rot90(still), atol=1)
    for motion, match in (('fly', "motion='fly'; use translate"), ('zoom', 'no coordinates')):
        with pytest.raises(ValueError, match=match):
            list(camera(model(), [1], motion)[1])


def test_files_hold_the_frames_and_appear_when_they_are_complete(tmp_path):
    frames = [np.full((9, 10, 3), 20 * i, np.uint8) for i in range(5)]
    animation.write(tmp_path / 'a.GIF', iter(frames), 10)
    with Image.open(tmp_path / 'a.GIF') as image:
        assert image.n_frames == 5 and image.size == (10, 9)

    def broken():
        yield frames[0]
        raise RuntimeError('stop')

    with pytest.raises(RuntimeError, match='stop'):
        animation.write(tmp_path / 'b.gif', broken(), 10)
    with pytest.raises(ValueError, match='has no frames'):
        animation.write(tmp_path / 'b.gif', iter([]), 10)
    for fps in (0.001, 50.1):
        with pytest.raises(ValueError, match=rf'fps={fps}, and a \.gif shows a frame for 0\.02 to 655\.35 seconds'):
            animation.write(tmp_path / 'b.gif', iter(frames), fps)
    animation.write(tmp_path / 'a.GIF', iter(frames), 100 / 65_535)
    assert [p.name for p in tmp_path.iterdir()] == ['a.GIF']


def test_an_mp4_has_as_many_frames_of_even_sides(tmp_path):
    frames = [np.full((33, 40, 4), [40 * i, 90, 200, 255], np.uint8) for i in range(6)]
    animation.write(tmp_path / 'a.mp4', iter(frames), 30)
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / 'a.mp4'))[0] == 6
    read = imageio_ffmpeg.read_frames(str(tmp_path / 'a.mp4'))
    assert next(read)['size'] == (40, 32)
    got = np.stack([np.frombuffer(frame, np.uint8).reshape(32, 40, 3) for frame in read])
    np.testing.assert_allclose(got[4, 16, 20].astype(int), (160, 90, 200), atol=6)


def test_a_film_that_ffmpeg_does_not_finish_is_none(tmp_path, monkeypatch):
    frames = [np.zeros((16, 16, 3), np.uint8)] * 3
    true = imageio_ffmpeg.write_frames

    def cut_off(path, *args, **kwargs):  # as on a full disk
        real = true(path, *args, **kwargs)
        real.send(None)
        while True:
            try:
                real.send((yield))
            except GeneratorExit:
                real.close()
                with open(path, 'r+b') as file:
                    file.truncate(100)
                raise

    monkeypatch.setattr(imageio_ffmpeg, 'write_frames', cut_off)
    with pytest.raises(ValueError, match=r'a\.mp4 was not finished by FFmpeg; is the disk full\?'):
        animation.write(tmp_path / 'a.mp4', iter(frames), 30)
    with pytest.raises(ValueError, match=r'frames of 16 x 1 pixels; write a \.gif'):
        animation.write(tmp_path / 'a.mp4', iter([np.zeros((16, 1, 3), np.uint8)]), 30)
    (tmp_path / 'folder.gif').mkdir()
    with pytest.raises(ValueError, match=r'folder\.gif is a folder; name a file in it'):
        animation.write(tmp_path / 'folder.gif', iter(frames), 30)
    assert [path.name for path in tmp_path.iterdir()] == ['folder.gif']
