"""Studies of how a generator knows its position (Xu et al. 2021), of coordinates, of holes and of aliasing."""

from pegan_jax.analysis.artefacts import artefact_study
from pegan_jax.analysis.directions import directions_study, walk
from pegan_jax.analysis.drawing import Study, save
from pegan_jax.analysis.encodings import constant_of, encodings_study, halves_study
from pegan_jax.analysis.extrapolation import extrapolation_study
from pegan_jax.analysis.features import default_sources, network_features, random_network
from pegan_jax.analysis.filters import filter_study
from pegan_jax.analysis.gates import gate_study
from pegan_jax.analysis.holes import random_models, worlds_for
from pegan_jax.analysis.latents import latent_study
from pegan_jax.analysis.noise import noise_study
from pegan_jax.analysis.padding import autocorrelation_study, padding_study
from pegan_jax.analysis.panoramas import panorama_study
from pegan_jax.analysis.position import position_study
from pegan_jax.analysis.resolution import detail_study, foveation_study, inversion_study
from pegan_jax.analysis.skips import skip_study
from pegan_jax.analysis.spectrum import spectrum_study
from pegan_jax.analysis.sticking import sticking_study

__all__ = [
    'Study',
    'artefact_study',
    'autocorrelation_study',
    'constant_of',
    'default_sources',
    'detail_study',
    'directions_study',
    'encodings_study',
    'extrapolation_study',
    'filter_study',
    'foveation_study',
    'gate_study',
    'halves_study',
    'inversion_study',
    'latent_study',
    'network_features',
    'noise_study',
    'padding_study',
    'panorama_study',
    'position_study',
    'random_models',
    'random_network',
    'save',
    'skip_study',
    'spectrum_study',
    'sticking_study',
    'walk',
    'worlds_for',
]
