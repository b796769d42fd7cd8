"""The systems, one module each.

A module has `Config`, the section `model` of a run's configuration, whose img_channels is the number of channels of
its images; `validate(config)`, which checks the whole configuration; and `build(config) -> GAN`.
"""

from pegan_jax.models import cips, creps, dcgan, deepfill, mspie, pconv, pggan, singan, stylegan2, stylegan3

SYSTEMS = {
    'cips': cips,
    'creps': creps,
    'dcgan': dcgan,
    'deepfill': deepfill,
    'mspie': mspie,
    'pconv': pconv,
    'pggan': pggan,
    'singan': singan,
    'stylegan2': stylegan2,
    'stylegan3': stylegan3,
}
