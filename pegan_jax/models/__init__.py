"""The systems, one module each: `Config`, Linen modules, losses, `validate(config)` and `build(config) -> GAN`."""

from pegan_jax.models import cips, stylegan2

SYSTEMS = {'cips': cips, 'stylegan2': stylegan2}
