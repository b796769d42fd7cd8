"""The systems, one module each.

A module has `Config`, `validate(config)` and `build(config) -> GAN`, and for pictures of seeds `SAMPLE_OPTIONS`,
`map_latents`, `num_ws`, `mean_w` and `view`.
"""

from pegan_jax.models import cips, dcgan, deepfill, mspie, pconv, pggan, singan, stylegan2, stylegan3

SYSTEMS = {
    'cips': cips,
    'dcgan': dcgan,
    'deepfill': deepfill,
    'mspie': mspie,
    'pconv': pconv,
    'pggan': pggan,
    'singan': singan,
    'stylegan2': stylegan2,
    'stylegan3': stylegan3,
}
