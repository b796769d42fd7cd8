"""The systems, one module each: `Config`, Linen modules, losses, `validate(config)` and `build(config) -> GAN`."""

from pegan_jax.models import cips, singan, stylegan2

SYSTEMS = {'cips': cips, 'singan': singan, 'stylegan2': stylegan2}
