"""Feature networks against torch, with random weights in the files that users have, and scores made of them."""

import independent
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pegan_jax.metrics import classes, gaussians, kernel, neighbours
from pegan_jax.metrics.image import ms_ssim
from pegan_jax.metrics.spectra import LEVEL, wavelet_packets
from pegan_jax.weights import inception, perceptual
from pegan_jax.weights.contents import ForeignFileError

pytestmark = pytest.mark.hand
RNG = np.random.default_rng(0)


def randomise(torch, net):
    """Activations keep their size from layer to layer, statistics are not those of a fresh network."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return net.eval()


def nchw(torch, images):
    return torch.tensor(np.moveaxis(images, -1, 1).copy())


@pytest.fixture(scope='module')
def inception_file(tmp_path_factory):
    """pytorch-fid's file, with random weights: torch-fidelity's network has the same names."""
    torch = independent.get('torch')
    module = independent.get('torch_fidelity.feature_extractor_inceptionv3')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'load_state_dict_from_url', lambda *a, **k: {})
        patch.setattr(module.FeatureExtractorInceptionV3, 'load_state_dict', lambda self, state: None)
        net = module.FeatureExtractorInceptionV3('fid', ['2048'])
    path = tmp_path_factory.mktemp('weights') / 'inception.pth'
    torch.save(randomise(torch, net).state_dict(), path)
    return path


def test_inception_has_the_features_of_torch_fidelity(inception_file):
    torch, module = independent.get('torch'), independent.get('torch_fidelity.feature_extractor_inceptionv3')
    names = ['2048', 'logits_unbiased']
    theirs = module.FeatureExtractorInceptionV3('fid', names, feature_extractor_weights_path=inception_file)
    params, classifier = inception.load_inception(inception_file)
    run = jax.jit(lambda images: inception.InceptionV3().apply({'params': params}, inception.prepare(images)))
    for size in ((64, 48), (299, 299), (400, 320)):
        images = RNG.integers(0, 256, (2, *size, 3)).astype(np.uint8)
        with torch.no_grad():
            features, logits = (x.numpy() for x in theirs(nchw(torch, images)))
        got = np.asarray(run(images))
        assert got.shape == (2, 2048) and features.std() > 0.1
        np.testing.assert_allclose(got, features, rtol=0, atol=1e-4 * np.abs(features).max())
        np.testing.assert_allclose(got @ classifier, logits, rtol=0, atol=1e-4 * np.abs(logits).max())


def test_inception_has_the_features_of_pytorch_fid(inception_file):
    """At its own size, so that nobody resizes."""
    torch, module = independent.get('torch'), independent.get('pytorch_fid.inception')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'load_state_dict_from_url', lambda *a, **k: torch.load(inception_file))
        theirs = module.InceptionV3(resize_input=False).eval()
    images = RNG.integers(0, 256, (2, 299, 299, 3)).astype(np.uint8)
    with torch.no_grad():
        want = theirs(nchw(torch, images).float() / 255)[0][:, :, 0, 0].numpy()
    params, _ = inception.load_inception(inception_file)
    got = jax.jit(inception.InceptionV3().apply)({'params': params}, images.astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_the_stem_is_that_of_torchvision_and_its_file_is_no_network_of_fid(tmp_path):
    torch, torchvision = independent.get('torch'), independent.get('torchvision')
    theirs = randomise(torch, torchvision.models.inception_v3(weights=None, init_weights=False))
    torch.save(theirs.state_dict(), tmp_path / 'inception_v3_google.pth')
    images = RNG.uniform(-1, 1, (1, 60, 75, 3)).astype(np.float32)
    with torch.no_grad():
        x = nchw(torch, images)
        for layer in ('Conv2d_1a_3x3', 'Conv2d_2a_3x3', 'Conv2d_2b_3x3', 'maxpool1', 'Conv2d_3b_1x1', 'Conv2d_4a_3x3'):
            x = getattr(theirs, layer)(x)
    params = inception.load_stem(tmp_path / 'inception_v3_google.pth')
    got = np.asarray(jax.jit(inception.Stem().apply)({'params': params}, images))
    want = np.moveaxis(x.numpy(), 1, -1)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
    with pytest.raises(ForeignFileError, match='has 1000 classes, not 1008'):
        inception.load_inception(tmp_path / 'inception_v3_google.pth')


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Two folders of 24 pictures."""
    root, pictures = tmp_path_factory.mktemp('pictures'), {}
    for name, low in (('fake', 0), ('real', 64)):
        (root / name).mkdir()
        coarse = RNG.integers(low, 256, (24, 8, 8, 3)).astype(np.uint8)
        pictures[name] = coarse.repeat(6, axis=1).repeat(6, axis=2)
        for i, picture in enumerate(pictures[name]):
            Image.fromarray(picture).save(root / name / f'{i:02}.png')
    return root, pictures


def test_scores_of_inception_are_those_of_torch_fidelity(inception_file, folders):
    fidelity, (root, pictures) = independent.get('torch_fidelity'), folders
    want = fidelity.calculate_metrics(
        input1=str(root / 'fake'), input2=str(root / 'real'), isc=True, fid=True, kid=True, cuda=False, verbose=False,
        cache=False, feature_extractor_weights_path=str(inception_file), kid_subsets=1, kid_subset_size=24,
        isc_splits=3, samples_shuffle=False, save_cpu_ram=True,
    )  # fmt: skip
    params, classifier = inception.load_inception(inception_file)
    run = jax.jit(lambda images: inception.InceptionV3().apply({'params': params}, inception.prepare(images)))
    fake, real = (np.asarray(run(pictures[name])) for name in ('fake', 'real'))
    # torch-fidelity divides covariances by N - 1.
    fid = gaussians.frechet_distance(*(gaussians.fit(x, ddof=1) for x in (real, fake)))
    assert fid == pytest.approx(want['frechet_inception_distance'], rel=1e-3)
    kid = kernel.kernel_distance(real, fake, subsets=1, subset_size=24).value
    assert kid == pytest.approx(want['kernel_inception_distance_mean'], rel=1e-3)
    # Its class probabilities include no bias either.
    score = classes.inception_score(classes.softmax(fake @ classifier), 3)
    assert score.mean == pytest.approx(want['inception_score_mean'], rel=1e-3)


def test_vgg_and_its_classifier_are_those_of_torch(tmp_path, folders):
    torch, torchvision, fidelity = (independent.get(name) for name in ('torch', 'torchvision', 'torch_fidelity'))
    path = tmp_path / 'vgg16.pth'
    torch.save(randomise(torch, torchvision.models.vgg16(weights=None)).state_dict(), path)
    module = independent.get('torch_fidelity.feature_extractor_vgg16')
    theirs = module.FeatureExtractorVGG16('vgg', ['fc2_relu'], feature_extractor_weights_path=path)
    root, pictures = folders
    params = perceptual.load_classifier(path)
    run = jax.jit(perceptual.classifier_features)
    fake, real = (np.asarray(run(params, pictures[name])) for name in ('fake', 'real'))
    with torch.no_grad():
        want = theirs(nchw(torch, pictures['fake'][:8]))[0].numpy()
    np.testing.assert_allclose(fake[:8], want, rtol=0, atol=1e-4 * want.max())
    scores = fidelity.calculate_metrics(
        input1=str(root / 'fake'), input2=str(root / 'real'), prc=True, cuda=False, verbose=False, cache=False,
        feature_extractor='vgg16', feature_extractor_weights_path=str(path), save_cpu_ram=True,
    )  # fmt: skip
    got = neighbours.compare(real, fake, 3)
    assert (got.precision, got.recall) == pytest.approx((scores['precision'], scores['recall']))


def test_real_vgg_and_lpips_are_those_of_torchvision_and_of_the_lpips_wheel():
    torch, torchvision, lpips = (independent.get(name) for name in ('torch', 'torchvision', 'lpips'))
    params = perceptual.load_lpips([perceptual.installed_lpips()])
    theirs = torchvision.models.vgg16(weights=None).eval()
    state = theirs.state_dict()
    for index in perceptual.INDICES:
        layer = params['vgg'][f'features_{index}']
        state[f'features.{index}.weight'] = torch.tensor(layer['kernel'].transpose(3, 2, 0, 1).copy())
        state[f'features.{index}.bias'] = torch.tensor(layer['bias'])
    theirs.load_state_dict(state)
    from skimage import data

    photographs = np.stack([x[60:188, 60:188] for x in (data.astronaut(), data.coffee(), data.chelsea())])
    with torch.no_grad():
        x = torch.tensor(np.moveaxis(photographs, -1, 1) / 255).float()
        mean, std = (torch.tensor(v)[None, :, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        want = theirs.features[:30]((x - mean) / std).mean(dim=(2, 3)).numpy()
    got = jax.jit(perceptual.mean_features)(params['vgg'], photographs)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * want.max())

    wheel = lpips.LPIPS(net='vgg', pnet_rand=True, verbose=False).eval()
    parts = [getattr(wheel.net, f'slice{n}') for n in range(1, 6)]
    convolutions = [m for part in parts for m in part if isinstance(m, torch.nn.Conv2d)]
    for convolution, index in zip(convolutions, perceptual.INDICES, strict=True):
        convolution.weight.data = state[f'features.{index}.weight']
        convolution.bias.data = state[f'features.{index}.bias']
    a = (photographs / 127.5 - 1).astype(np.float32)
    for b in (a[::-1], a + RNG.normal(0, 0.1, a.shape).astype(np.float32), np.roll(a, 3, axis=1), a):
        with torch.no_grad():
            want = wheel(*(nchw(torch, np.ascontiguousarray(x)) for x in (a, b))).numpy().ravel()
        np.testing.assert_allclose(jax.jit(perceptual.lpips)(params, a, jnp.asarray(b)), want, rtol=1e-3, atol=1e-6)
    again = perceptual.load_lpips([perceptual.installed_lpips()])['heads']
    heads = torch.load(perceptual.installed_heads(), map_location='cpu')
    for n in range(5):
        np.testing.assert_array_equal(again[f'head_{n}'], heads[f'lin{n}.model.1.weight'].numpy().ravel())


def test_measures_without_a_network_are_those_of_others():
    torch, msssim, prdc, ptwt = (independent.get(name) for name in ('torch', 'pytorch_msssim', 'prdc', 'ptwt'))
    a = RNG.integers(0, 256, (256, 192, 3)).astype(np.uint8)
    b = (0.6 * a + 0.4 * np.roll(a, 1, axis=1)).astype(np.uint8)
    want = msssim.ms_ssim(*(nchw(torch, x[None]).double() for x in (a, b)), data_range=255).item()
    assert ms_ssim(a, b) == pytest.approx(want, rel=1e-4)
    real, fake = RNG.standard_normal((80, 6)).astype(np.float32), RNG.standard_normal((70, 6)).astype(np.float32)
    want = prdc.compute_prdc(real_features=real, fake_features=fake, nearest_k=5)
    got = neighbours.compare(real, fake, 5)
    assert got._asdict() == pytest.approx(want)
    images = RNG.integers(0, 256, (2, 32, 48, 3)).astype(np.uint8) / 255
    tree = ptwt.WaveletPacket2D(nchw(torch, images), 'haar', maxlevel=LEVEL)
    want = sorted(float((tree[node] ** 2).sum()) for node in tree.get_natural_order(LEVEL))
    np.testing.assert_allclose(sorted((wavelet_packets(images) ** 2).sum(axis=(1, 2))), want, rtol=1e-6)
